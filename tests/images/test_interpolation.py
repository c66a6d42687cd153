"""Interpolation from the voxels around the points is that from the whole volume."""

import pytest
import torch
from synthetic import AFFINES, grid_around

from patchmorph.images.interpolation import interpolator
from patchmorph.images.volume import Image
from patchmorph.spatial.affine import apply_affine
from patchmorph.spatial.bsplines import spline_coefficients
from patchmorph.spatial.sampling import (
    sample_cubic,
    sample_label,
    sample_linear,
    sample_nearest,
)

GRID = grid_around((20, 21, 22), AFFINES["oblique"] * 2, (5.0, -3, 2))


@pytest.fixture(params=["inside", "at a corner", "outside"])
def points(request):
    generator = torch.Generator().manual_seed(1)
    middle = {"inside": [9.0, 8, 11], "at a corner": [19.0, 1, 20], "outside": [60.0, 0, 0]}[request.param]
    voxel = torch.tensor(middle) + (torch.rand(1, 400, 3, generator=generator) * 2 - 1) * 4
    return apply_affine(GRID.voxel_to_world, voxel.double()).float()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
def test_interpolators_find_what_the_whole_array_has(points, dtype):
    generator = torch.Generator().manual_seed(0)
    image = Image(torch.randint(0, 5, (1, 1, *GRID.shape), generator=generator).to(dtype), GRID)
    data, voxel = image.data, GRID.to_voxel(points)
    background = 3
    found = {name: interpolator(image, name, background)(points) for name in ("nearest", "label")}
    assert found["nearest"].dtype == found["label"].dtype == dtype
    for name, sample in (("nearest", sample_nearest), ("label", sample_label)):
        expected = sample(data, voxel, background)
        # Points within rounding of the border between two voxels may fall to either.
        assert (found[name] == expected).float().mean() > 0.99
    linear = sample_linear(data.float() - background, voxel, "zeros") + background
    torch.testing.assert_close(interpolator(image, "linear", background)(points), linear, atol=1e-4, rtol=0)
    cubic = sample_cubic(spline_coefficients(data), voxel, background)
    torch.testing.assert_close(interpolator(image, "cubic", background)(points), cubic, atol=1e-4, rtol=0)


def test_a_background_that_is_not_a_number_starts_half_a_voxel_beyond_the_last_one():
    grid = grid_around((4, 1, 1), AFFINES["RAS"])
    image = Image(torch.tensor([2.0, 4, 6, 8]).reshape(1, 1, 4, 1, 1), grid)
    voxel = torch.tensor([-0.6, -0.4, 0.0, 1.5, 3.4, 3.6])
    points = torch.zeros(1, 6, 3)
    points[0, :, 0] = voxel - 1.5
    found = interpolator(image, "linear", float("nan"))(points)[0, 0]
    expected = torch.tensor([torch.nan, 2.0, 2, 5, 8, torch.nan])
    torch.testing.assert_close(found, expected, equal_nan=True)
