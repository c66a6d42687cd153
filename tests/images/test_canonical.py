"""One storage order: the same values at the same places, on a grid without the last digits of a header."""

import itertools
import math

import pytest
import torch
from synthetic import AFFINES, grid_around, smooth_image

from patchmorph.images.canonical import AXES_STEP, CENTER_STEP, canonical
from patchmorph.images.volume import Image
from patchmorph.spatial.grid import Grid


def test_values_stay_where_they_are(linear):
    image = smooth_image(grid_around((9, 12, 10), linear * 4, (5.0, -7, 3)))
    found = canonical(image)
    assert found.grid.orientation == "RAS"
    points = found.grid.points_world()
    index = image.grid.to_voxel(points)
    apart = (index - index.round()).abs().max()
    assert apart < 2e-3  # voxels: the rounding of the grid
    x, y, z = index[0].round().long().unbind(-1)
    assert torch.equal(found.data[0, 0], image.data[0, 0, x, y, z])
    assert sorted(found.grid.shape) == sorted(image.grid.shape)


@pytest.mark.parametrize("voxel_mm", [0.001, 0.02, 0.7, 1.0, 4.0])
def test_a_grid_moves_by_far_less_than_a_voxel(linear, voxel_mm):
    grid = Grid(
        (256, 240, 250), grid_around((256, 240, 250), linear * voxel_mm, (0.3, -0.2, 0.1)).voxel_to_world
    )
    found = canonical(Image(torch.zeros(1, 1, 1, 1, 1).expand(1, 1, *grid.shape), grid)).grid
    corners, moved = (each.corners_world()[0] for each in (grid, found))
    nearest = (corners[:, None] - moved).norm(dim=-1).amin(0).max()
    unit = 2.0 ** round(math.log2(voxel_mm))
    assert nearest <= unit * (CENTER_STEP + 128 * 3 * AXES_STEP)


def test_an_image_in_the_order_is_not_copied():
    image = smooth_image(grid_around((9, 12, 10), AFFINES["RAS"] * 2))
    assert canonical(image).data is image.data
    assert canonical(image).grid.equals(image.grid)


def test_what_is_known_of_an_image_stays():
    image = smooth_image(grid_around((9, 12, 10), AFFINES["LIA"] * 2))
    image = Image(image.data, image.grid, "name", ((0, 0), (2, 1)), None, ("note",), ("doubt",), 0.5)
    found = canonical(image)
    assert (found.name, found.notes, found.doubts) == ("name", ("note",), ("doubt",))
    assert found.background == 0.5
    outward = {tuple(normal.tolist()) for normal in image.truncation_normals()}
    assert {tuple(normal.tolist()) for normal in found.truncation_normals()} == outward
    assert found.window() == image.window()
    assert found._statistics is image._statistics  # the voxels are counted once


def test_all_orders_of_axes_and_directions_are_turned_back():
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            linear = torch.zeros(3, 3, dtype=torch.float64)
            for k, (axis, sign) in enumerate(zip(order, signs, strict=True)):
                linear[axis, k] = sign
            grid = grid_around((3, 4, 5), linear.numpy())
            assert canonical(Image(torch.rand(1, 1, 3, 4, 5), grid)).grid.orientation == "RAS"
