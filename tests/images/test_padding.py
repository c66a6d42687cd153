"""Padding and stray voxels are told from background and tissue; what looks a little like them is not."""

import math

import pytest
import torch
from scans import (
    GRIDS,
    SHAPES,
    WHITE,
    changed,
    implants,
    outside_cylinder,
    rician,
    scan,
    slab,
    t2,
    tube,
    vessels,
)
from torch import Tensor

from patchmorph.images.foreground import foreground
from patchmorph.images.histogram import OrderStatistics
from patchmorph.images.intensity import Window
from patchmorph.images.padding import Bins
from patchmorph.images.volume import Image

KINDS = tuple(SHAPES)


def bins_of(*counts: tuple[float, int]) -> Bins:
    """Bins of so many voxels of each value."""
    voxels = torch.cat([torch.full((count,), value) for value, count in counts])
    return Bins.of(OrderStatistics(lambda: iter([voxels])))


def same_tissue(window: Window, expected: Window) -> bool:
    """Whether two windows agree within a hundredth of their width and show the same background."""
    tolerance = 0.01 * (expected.high - expected.low)
    ends = ((window.low, expected.low), (window.high, expected.high))
    return window.inverted == expected.inverted and all(abs(a - b) <= tolerance for a, b in ends)


def is_plain(window: Window) -> bool:
    """Whether nothing was taken for padding or for stray."""
    return (
        math.isinf(window.empty_below) and math.isinf(window.empty_above) and math.isinf(window.stray_above)
    )


def shown(image: Image) -> Tensor:
    """The voxels of the foreground."""
    return foreground(image.normalized().values())


# Bins


def test_bins_are_the_occupied_ones_in_order():
    bins = bins_of((4.0, 3), (-2.0, 5), (0.0, 2))
    assert bins.values.tolist() == pytest.approx([-2, 0, 4, math.inf], rel=0.01)  # bins are that wide
    assert bins.counts.tolist() == [5, 2, 3]
    assert (bins.total, bins.below) == (10, 0)


def test_a_part_of_the_bins_counts_what_is_below_it():
    bins = bins_of((1.0, 5), (2.0, 2), (4.0, 3), (8.0, 1))
    part = bins.part(1).part(1, 2)
    assert part.values.tolist() == [4, 8]
    assert (part.total, part.below) == (3, 7)
    assert bins.part(0, 3).values.tolist() == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("fraction", "value"), [(0.0, 1), (0.5, 1), (0.51, 2), (0.7, 2), (0.71, 4), (1.0, 4)]
)
def test_a_quantile_is_the_first_bin_that_reaches_it(fraction, value):
    bins = bins_of((1.0, 5), (2.0, 2), (4.0, 3))
    assert bins.quantile(fraction) == value
    assert bins.values[bins.place(fraction)] == value


# A few bright voxels


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("linear", GRIDS)
@pytest.mark.parametrize("times", [3.5, 6, 10, 14, 24, 300])
def test_a_marker_beside_leaves_the_window(kind, linear, times):
    """Of 0.2 to 2 % of the voxels."""
    plain = scan(kind, linear)
    for fraction in (0.002, 0.008, 0.02):
        where = tube(plain, fraction)
        window = changed(plain, torch.where(where, times * WHITE, plain.data)).window()
        assert same_tissue(window, plain.window()), fraction
        assert 1.05 * WHITE < window.stray_above <= times * WHITE
        assert math.isinf(window.empty_below)
        assert math.isinf(window.empty_above)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("times", [4, 12, 24])
@pytest.mark.parametrize("inside", [implants, vessels])
def test_bright_voxels_inside_leave_the_window(kind, times, inside):
    for linear in GRIDS:
        plain = scan(kind, linear)
        where = inside(plain, 0.015) if inside is implants else inside(plain)
        assert 0.002 < where.float().mean() < 0.02
        window = changed(plain, torch.where(where, times * WHITE, plain.data)).window()
        assert same_tissue(window, plain.window())
        assert window.stray_above <= times * WHITE


@pytest.mark.parametrize("linear", GRIDS)
def test_bright_voxels_of_all_intensities_leave_the_window(linear):
    """As metal and vessels have: from 3 to 50 times white matter, none twice."""
    plain = scan("head", linear)
    where = tube(plain, 0.008) | vessels(plain)
    values = WHITE * torch.logspace(math.log10(3), math.log10(50), int(where.sum()))
    window = changed(plain, plain.data.masked_scatter(where, values.float())).window()
    assert same_tissue(window, plain.window())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-5, 1.0, 1e6])
def test_the_unit_of_intensities_does_not_matter(kind, scale):
    plain = scan(kind)
    data = torch.where(tube(plain, 0.008), 5 * WHITE, plain.data)
    window, scaled = changed(plain, data).window(), changed(plain, data * scale).window()
    for name in ("low", "high", "stray_above"):
        assert getattr(scaled, name) == pytest.approx(
            scale * getattr(window, name), rel=0.01
        )  # bins are wide


# Padding


PADDING = (-3024.0, -32768.0, -9999.0, -1024.0, 32767.0, 65535.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", PADDING)
@pytest.mark.parametrize("linear", GRIDS)
def test_padding_outside_a_cylinder_shows_nothing(kind, value, linear):
    plain = scan(kind, linear)
    outside = outside_cylinder(plain)
    padded = changed(plain, torch.where(outside, value, plain.data))
    assert same_tissue(padded.window(), plain.window())
    found, expected = shown(padded), shown(plain)
    assert not found[outside].any()
    assert (found == expected)[~outside].float().mean() > 0.999  # noise at the threshold


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [-3024.0, -32768.0, -9999.0])
@pytest.mark.parametrize(("axis", "width"), [(0, 1), (1, 3), (2, 2)])
def test_a_dark_slab_at_a_face_shows_nothing(kind, value, axis, width):
    for linear in GRIDS:
        plain = scan(kind, linear)
        where = slab(plain, axis, width)
        padded = changed(plain, torch.where(where, value, plain.data))
        assert same_tissue(padded.window(), plain.window())
        found, expected = shown(padded), shown(plain)
        assert not found[where].any()
        assert (found == expected)[~where].float().mean() > 0.999


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [-3024.0, -32768.0, -2000.0])
def test_padding_below_the_air_of_a_ct_shows_nothing(kind, value):
    """Air has −1000 HU. Padding makes up a quarter of the array, and both of a little and of a lot."""
    plain = scan(kind)
    tissue = torch.where(plain.data > 0.06 * WHITE, 0.6 * plain.data, -1000)
    unpadded = changed(plain, tissue)
    for where in (outside_cylinder(plain), slab(plain, 1, 1), slab(plain, 2, 3) | outside_cylinder(plain)):
        padded = changed(plain, torch.where(where, value, tissue))
        assert same_tissue(padded.window(), unpadded.window())
        assert value < padded.window().empty_below <= -1000
        assert torch.equal(shown(padded), shown(unpadded) & ~where)


def test_two_values_of_padding_show_nothing():
    plain = scan("head")
    data = torch.where(outside_cylinder(plain), -3024, plain.data)
    padded = changed(plain, torch.where(slab(plain, 2, 2), -32768, data))
    assert same_tissue(padded.window(), plain.window())
    assert padded.window().empty_below > -3024


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [-3024.0, 32767.0])
def test_padding_smeared_by_resampling_shows_nothing(kind, value):
    """Between padding and tissue, interpolation writes values in between: here in 2 % of the voxels."""
    plain = scan(kind)
    data = torch.where(slab(plain, 0, 4), value, plain.data)
    for part in (0.2, 0.5, 0.9):
        data[:, :, 4] = torch.lerp(plain.data[:, :, 4], torch.tensor(value), part)
        smeared = changed(plain, data)
        assert same_tissue(smeared.window(), plain.window())
        assert not shown(smeared)[:, :, :4].any()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_a_marker_together_leave_the_window(kind):
    plain = scan(kind)
    data = torch.where(outside_cylinder(plain), -3024, plain.data)
    window = changed(plain, torch.where(implants(plain, 0.01), 12 * WHITE, data)).window()
    assert same_tissue(window, plain.window())
    assert window.stray_above <= 12 * WHITE
    assert window.empty_below > -3024


@pytest.mark.parametrize("value", [-1024.0, -3024.0, -200.0])
def test_a_negative_background_far_below_all_others_shows_nothing(value):
    """A brain without skull has no other background: its window is that of the brain in zeros."""
    plain = scan("brain")
    inside = plain.data > 0.06 * WHITE
    zeros = changed(plain, torch.where(inside, plain.data, 0))
    padded = changed(plain, torch.where(inside, plain.data, value))
    assert padded.window().background == value
    assert same_tissue(padded.window(), zeros.window())
    assert torch.equal(shown(padded), shown(zeros))


@pytest.mark.parametrize("value", [-1.0, -1024.0])
def test_two_intensities_are_the_ends_of_the_window(value):
    plain = scan("brain")
    window = changed(plain, torch.where(plain.data > 0.06 * WHITE, 1.0, value)).window()
    assert (window.low, window.high, window.background) == (value, 1, None)


@pytest.mark.parametrize("value", [-20.0, 0.0])
def test_a_background_near_all_others_is_the_lower_end_of_the_window(value):
    plain = scan("brain")
    image = changed(plain, torch.where(plain.data > 0.06 * WHITE, plain.data, value))
    assert image.window().background is None
    assert image.window().low == value


# The user says what shows nothing


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [math.nan, -5.0, 0.7 * WHITE, 400.0])
def test_the_background_that_the_user_names_shows_nothing(kind, value):
    """Wherever its intensity lies."""
    for linear in GRIDS:
        plain = scan(kind, linear)
        outside = outside_cylinder(plain)
        padded = changed(plain, torch.where(outside, value, plain.data)).with_background(value)
        assert same_tissue(padded.window(), plain.window())
        found, expected = shown(padded), shown(plain)
        assert not found[outside].any()
        assert (found == expected)[~outside].float().mean() > 0.999


# What is neither padding nor stray


def as_classes(plain: Image) -> Tensor:
    levels = torch.bucketize(plain.data, WHITE * torch.tensor([0.06, 0.4, 0.7]))
    return torch.tensor([0.0, 100, 150, 200])[levels]


def as_scored(plain: Image, where: Tensor) -> Tensor:
    """Standard scores of the voxels ``where``; others are on the same scale."""
    return (plain.data - plain.data[where].mean()) / plain.data[where].std()


NEITHER = {
    "offset": lambda plain: torch.where(plain.data > 6, 500 + 5 * plain.data, 0),
    "large offset": lambda plain: torch.where(plain.data > 6, 900 + plain.data, 0),
    "offset in noise": lambda plain: torch.where(
        plain.data > 6, 500 + 5 * plain.data, rician(0 * plain.data, 2)
    ),
    "classes": as_classes,
    "scored, background at the minimum": lambda plain: as_scored(plain, plain.data > 6),
    "scored over all": lambda plain: as_scored(plain, plain.data > -1),
    "fluid": t2,
    "mask": lambda plain: (plain.data > 6).float(),
    "mask of 255": lambda plain: 255.0 * (plain.data > 6),
    "small values": lambda plain: 1e-6 * plain.data,
    "noise": lambda plain: rician(plain.data, 1),
    "stored with an offset": lambda plain: (plain.data - 1024).round(),
    "CT": lambda plain: torch.where(plain.data > 6, 0.6 * plain.data, -1000),
    "undershoot": lambda plain: plain.data - 4 * implants(plain, 0.01).roll(4, 2).float(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NEITHER)
def test_clean_images_are_left_as_they_are(kind, name):
    plain = scan(kind)
    image = changed(plain, NEITHER[name](plain))
    window = image.window()
    assert is_plain(window)
    assert not window.inverted
    found, content = shown(image), plain.data > 0.06 * WHITE
    assert (found == content).float().mean() > 0.99  # dark tissue beside the darkest noise


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["classes", "fluid", "mask", "noise", "offset in noise"])
def test_clean_images_in_inverted_intensities_are_left_as_they_are(kind, name):
    plain = scan(kind)
    data = NEITHER[name](plain)
    window = changed(plain, data.max() + 3 - data).window()
    assert is_plain(window)
    assert window.inverted


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.15, 0.3])
def test_bright_fluid_is_tissue(fraction):
    """2.2 times as bright as white matter, as in T2, in any fraction of the content."""
    plain = scan("brain")
    tissue = plain.data > 0
    dark = tissue & (plain.data < plain.data[tissue].quantile(fraction))
    window = changed(plain, torch.where(dark, 2.2 * WHITE, plain.data)).window()
    assert math.isinf(window.stray_above)
    assert window.high == pytest.approx(2.2 * WHITE)


def test_bright_padding_must_lie_on_the_faces():
    """The same block in the middle is what the image shows."""
    plain = scan("brain")
    block = torch.zeros_like(plain.data, dtype=torch.bool)
    block[..., 10:38, 12:40, 10:38] = True
    window = changed(plain, torch.where(block, 1000.0, plain.data)).window()
    assert math.isinf(window.empty_above)
    assert window.high == pytest.approx(1000)
