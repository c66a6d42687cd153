"""Intensity maps, by hand."""

import math

import pytest
import torch
from synthetic import grid_around
from torch import Tensor

from patchmorph.images.intensity import (
    Curve,
    Empty,
    Inside,
    IntensityMap,
    Masked,
    NonZero,
    Window,
    is_background,
)
from patchmorph.images.volume import Image


def mapped(intensity_map: IntensityMap, values: list[float]) -> Tensor:
    """The map of single voxels."""
    row = torch.tensor(values).reshape(1, 1, -1, 1, 1)
    found = intensity_map(row, grid_around((len(values), 1, 1), torch.eye(3).numpy())).flatten()
    torch.testing.assert_close(row.flatten(), torch.tensor(values), equal_nan=True)  # left alone
    return found


def test_a_window_clamps_and_inverts():
    values, expected = [-5.0, 10, 15, 20, 30], torch.tensor([0.0, 0, 0.5, 1, 1])
    assert torch.equal(mapped(Window(10.0, 20.0), values), expected)
    assert torch.equal(mapped(Window(10.0, 20.0, inverted=True), values), 1 - expected)


@pytest.mark.parametrize(("inverted", "expected"), [(False, [0, 0, 0, 0.5, 1]), (True, [0, 1, 1, 0.5, 0])])
def test_below_the_lowest_intensity_that_shows_something_a_window_is_zero(inverted, expected):
    """Even where dark is bright; that intensity itself shows something."""
    window = Window(10.0, 20.0, inverted, empty_below=-50.0)
    assert mapped(window, [-3024.0, -50.0, 10.0, 15.0, 30.0]).tolist() == expected


@pytest.mark.parametrize(("inverted", "expected"), [(False, [0, 1, 0, 0]), (True, [1, 0, 0, 0])])
def test_from_the_intensity_of_bright_padding_on_a_window_is_zero(inverted, expected):
    window = Window(10.0, 20.0, inverted, empty_above=80.0)
    assert mapped(window, [0.0, 79.9, 80.0, 32767.0]).tolist() == expected


@pytest.mark.parametrize("inverted", [False, True])
def test_background_is_zero_wherever_it_lies_in_a_window(inverted):
    assert mapped(
        Window(10.0, 20.0, inverted, background=15.0), [14.0, 15.0, 16.0]
    ).tolist() == pytest.approx([0.6, 0, 0.4] if inverted else [0.4, 0, 0.6])
    values = [math.nan, math.inf, -math.inf, 12.5]
    found = mapped(Window(10.0, 20.0, inverted, background=math.nan), values)
    assert found.tolist() == [0, 0, 0, 0.75 if inverted else 0.25]


@pytest.mark.parametrize(
    ("fields", "empty"),
    [
        ({}, []),
        ({"empty_below": -5.0}, [-6.0]),
        ({"empty_above": 9.0}, [9.0]),
        ({"background": 3.0}, [3.0, math.nan, math.inf]),
        ({"background": math.nan, "empty_below": -5.0}, [-6.0, math.nan, math.inf]),
    ],
)
def test_what_shows_nothing_in_a_window(fields, empty):
    window = Window(0.0, 8.0, **fields)
    values = [-6.0, -5.0, 3.0, 8.9, 9.0, *([math.nan, math.inf] if "background" in fields else [])]
    assert mapped(Empty(window), values).tolist() == [float(str(v) in map(str, empty)) for v in values]
    assert window.leaves_out is bool(fields)


def test_stray_voxels_are_as_bright_as_a_window_allows():
    """They are filled elsewhere (`patchmorph.registration.preparation`)."""
    assert mapped(Window(10.0, 20.0, stray_above=80.0), [79.0, 80.0, 5000.0]).tolist() == [1, 1, 1]


def test_the_ends_of_a_window_are_zero_and_one_in_single_precision():
    """Also where the width is no float32 of its own."""
    low, high = 0.1, 2.2
    assert mapped(Window(low, high), [low, high]).tolist() == [0, 1]


def test_background_is_what_is_not_finite_and_one_value():
    values = torch.tensor([0.0, -0.0, 1e-38, math.nan, math.inf, -math.inf])
    assert is_background(values, 0.0).tolist() == [True, True, False, True, True, True]
    assert is_background(values, math.nan).tolist() == [False, False, False, True, True, True]


def test_inside_is_one_from_its_lower_end_up_to_its_upper_end():
    values = [-1.0, 2.0, 5.0, 7.999, 8.0, 9.0, math.inf]
    assert mapped(Inside(2.0, 8.0), values).tolist() == [0, 1, 1, 1, 0, 0, 0]
    assert mapped(Inside(2.0), [*values[:-1], math.nan]).tolist() == [0, 1, 1, 1, 1, 1, 0]


def test_a_mask_is_inside_where_it_is_neither_zero_nor_nan():
    values = [0.0, -0.0, 1.0, 2035.0, 0.001, -1.0, math.nan, math.inf]
    assert mapped(NonZero(), values).tolist() == [0, 0, 1, 1, 1, 1, 0, 1]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_masks_of_all_types_are_inside_where_they_are_not_zero(dtype):
    ids = torch.tensor([0, 1, 2, 100]).to(dtype).reshape(1, 1, 4, 1, 1)
    mask = Image(ids, grid_around((4, 1, 1), torch.eye(3).numpy())).mapped(NonZero())
    assert mask.values().flatten().tolist() == [0, 1, 1, 1]


def test_a_curve_runs_through_its_knots():
    """By hand: three knots at 0, 1/2 and 1; linear in between, clamped beyond, zero up to the background."""
    values = [-0.3, 0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.4]
    found = mapped(Curve(torch.tensor([0.8, 0.2, 0.6]), 0.1), values)
    torch.testing.assert_close(found, torch.tensor([0.0, 0, 0, 0.5, 0.2, 0.4, 0.6, 0.6]))
    lower = mapped(Curve(torch.tensor([0.8, 0.2, 0.6]), -1.0), values)
    torch.testing.assert_close(lower[:3], torch.tensor([0.8, 0.8, 0.68]))


def test_a_mask_map_is_strict_at_its_threshold():
    grid = grid_around((5, 1, 1), torch.eye(3).numpy())
    mask = Image(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).reshape(1, 1, 5, 1, 1), grid)
    assert mapped(Masked(mask, 0.5, 1.0), [3.0] * 5).tolist() == [0, 0, 0, 3, 3]
