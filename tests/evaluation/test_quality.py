"""Quality that is measured block by block is that of whole arrays."""

import math

import numpy as np
import pytest
import torch
from registered import registered
from synthetic import grid_around, lopsided, rotation, smooth_image, smooth_velocity

from patchmorph.evaluation.labels import PairLabels
from patchmorph.evaluation.measured import measure_map
from patchmorph.evaluation.quality import measure_quality, warp_and_measure
from patchmorph.images.volume import Image
from patchmorph.registration.result import Registration
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.displacement import DisplacementField

SHAPE = (70, 44, 40)
"""Longer than a block along its first axis."""


def folding_map(linear) -> Transform:
    """A turn, and a field with folds: some of them in the content."""
    grid = grid_around((20, 18, 16), linear * 8)
    flow = smooth_velocity(grid, 1.0)
    noise = torch.randn(1, 3, *grid.shape, generator=torch.Generator().manual_seed(0))
    return rotation(6) @ DisplacementField(noise * 5, grid, outside="zeros") @ flow


def registration_of(linear) -> Registration:
    fixed = lopsided(grid_around(SHAPE, linear * 2.5, (4.0, 0, 0)))
    moving = smooth_image(grid_around((60, 66, 58), linear.T * 2.5))
    transform = folding_map(linear)
    return registered(fixed, moving, transform)


def directly(registration, warped, region=None) -> tuple[float, float, float, float]:
    """The four figures from whole arrays, in numpy."""
    grid = registration.fixed.grid
    data = registration.fixed.data[0, 0].double()
    low, high = registration.fixed.intensity_range()
    normal = ((data - low) / (high - low)).clamp(0, 1)
    content = (normal > 0.06).numpy()
    inside = content if region is None else (region > 0).numpy()
    spacing = float(grid.spacing_mm.min())
    before = registration.moving.sample(grid.points_world(), spacing)[0, 0].double().numpy()
    # Forward differences, also at the last voxels: of the points of a grid that is one voxel longer.
    points = grid.crop((0, 0, 0), tuple(n + 1 for n in SHAPE)).points_world()
    mapped = registration.transform(points)[0].double()
    base = mapped[:-1, :-1, :-1]
    steps = [mapped[1:, :-1, :-1] - base, mapped[:-1, 1:, :-1] - base, mapped[:-1, :-1, 1:] - base]
    determinant = torch.linalg.det(torch.stack(steps, -1)) / torch.linalg.det(grid.voxel_to_world[0, :3, :3])
    determinant = determinant.numpy()[inside]
    return (
        np.corrcoef(normal.numpy()[content], before[content])[0, 1],
        np.corrcoef(normal.numpy()[content], warped.double().numpy()[content])[0, 1],
        100 * (determinant <= 0).mean(),
        np.log(np.maximum(determinant, 1e-9)).std(ddof=1),
    )


@pytest.mark.parametrize("with_region", [False, True])
def test_quality_is_the_formula_on_whole_arrays(linear, with_region):
    registration = registration_of(linear)
    warped = registration.warped()
    region = None
    if with_region:
        ids = torch.zeros(SHAPE, dtype=torch.int16)
        ids[20:67, 10:30, 5:33] = 17
        ids[30:40, 12:20, 8:30] = -1  # not a label
        region = Image(ids[None, None], registration.fixed.grid)
    expected = directly(registration, warped.data[0, 0], None if region is None else region.data[0, 0])
    assert 0.5 < expected[2] < 30  # some folds, within and without
    found = measure_quality(registration, warped, region)
    # Determinants near zero fall to either side by rounding: a voxel of ten thousand.
    assert found.similarity_before == pytest.approx(expected[0], abs=1e-5)
    assert found.similarity_after == pytest.approx(expected[1], abs=1e-5)
    assert found.folding_percent == pytest.approx(expected[2], abs=0.02)
    assert found.sd_log_jacobian == pytest.approx(expected[3], rel=2e-3)
    assert abs(found.similarity_before - found.similarity_after) > 1e-3


def test_the_content_is_that_of_a_dark_background_whatever_the_image_has():
    """A bright background is no content: the figures are those of the same image the other way round."""
    dark = smooth_image(grid_around((40, 44, 38), np.eye(3) * 4))
    bright = Image(1 - dark.data, dark.grid, "bright")
    shift = AffineTransform.translation(torch.tensor([[4.0, 0, 0]]))
    for fixed in (dark, bright):
        registration = registered(fixed, dark, shift)
        quality = measure_quality(registration, dark)
        assert quality.similarity_after > 0.95
        assert quality.similarity_before > 0.95
        assert quality.folding_percent == quality.sd_log_jacobian == 0


def test_an_empty_region_has_no_figures_of_the_map():
    image = smooth_image(grid_around((40, 44, 38), np.eye(3) * 4))
    identity = AffineTransform.identity()
    empty = Image(torch.zeros(1, 1, 40, 44, 38, dtype=torch.int16), image.grid)
    quality = measure_quality(registered(image, image, identity), image, empty)
    assert math.isnan(quality.folding_percent)
    assert math.isnan(quality.sd_log_jacobian)
    assert quality.similarity_after == pytest.approx(1, abs=1e-3)  # intensities are clamped to the window


def test_voxels_without_a_number_are_left_out_of_the_similarity(linear):
    registration = registration_of(linear)
    moving = registration.moving
    moving.data[:, :, 20:24, 30:33] = torch.nan
    before = moving.sample(registration.fixed.grid.points_world(), 2.25)[0, 0]
    normal = registration.fixed.normalized().values()[0, 0]
    known = before.isfinite() & (normal > 0.06)
    assert 0 < int((~before.isfinite()).sum()) < before.numel() / 10
    expected = np.corrcoef(normal[known].double().numpy(), before[known].double().numpy())[0, 1]
    found = measure_quality(registration, registration.fixed)
    assert found.similarity_before == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("background", [-7.0, math.nan])
def test_what_is_written_shows_the_given_background_outside_the_moving_image(background):
    image = lopsided(grid_around((40, 36, 32), np.eye(3) * 4))
    beyond = AffineTransform.translation(torch.tensor([[60.0, 0.0, 0.0]]))
    found = registered(image, image.with_background(background), beyond)
    for warped in (warp_and_measure(found)[0], measure_map(found, PairLabels()).warped, found.warped()):
        torch.testing.assert_close(warped.data, found.warped().data, equal_nan=True)
        outside = warped.data[0, 0, 26:]
        assert outside.isnan().all() if math.isnan(background) else (outside == background).all()
