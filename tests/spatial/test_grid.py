import math

import numpy as np
import pytest
import torch
from synthetic import AFFINES, grid_around

from patchmorph.spatial.affine import apply_affine
from patchmorph.spatial.grid import Grid, VoxelBox


def test_points_agree_with_nibabels_affine(linear):
    grid = grid_around((4, 5, 6), linear, (3, -2, 7))
    index = np.array([1, 4, 2, 1])
    expected = (grid.voxel_to_world[0].numpy() @ index)[:3]
    np.testing.assert_allclose(grid.points_world()[0, 1, 4, 2], expected, atol=1e-5)


def test_voxel_and_world_are_inverse(linear):
    grid = grid_around((4, 5, 6), linear, (3, -2, 7))
    torch.testing.assert_close(grid.to_voxel(grid.points_world()), grid.points_voxel(), atol=1e-5, rtol=0)


def test_centered_grids_have_their_center_and_spacing():
    center = torch.tensor([[1.0, 2.0, 3.0], [-4.0, 5.0, 6.0]])
    grid = Grid.centered((8, 8, 8), 2.5, center)
    torch.testing.assert_close(grid.center_world, center.double())
    torch.testing.assert_close(grid.points_world().mean((1, 2, 3)), center)
    torch.testing.assert_close(grid.spacing_mm, torch.full((2, 3), 2.5, dtype=torch.float64))


def test_coarsening_keeps_the_center_of_each_block(linear):
    grid = grid_around((4, 6, 8), linear)
    blocks = grid.points_world()[0].reshape(2, 2, 3, 2, 4, 2, 3).mean((1, 3, 5))
    torch.testing.assert_close(grid.coarsen(2).points_world()[0], blocks)


@pytest.mark.parametrize("side", [3, 4, 64])
def test_blocks_tile_a_grid_exactly_once(linear, side):
    grid = grid_around((7, 5, 9), linear, (3, -2, 7))
    covered = torch.zeros(grid.shape, dtype=torch.int64)
    points = grid.points_world()
    for box, block in grid.blocks(side):
        covered[box.slices] += 1
        assert block.shape == box.shape
        assert max(box.shape) <= side
        torch.testing.assert_close(block.points_world(), points[(0, *box.slices)][None])
    assert (covered == 1).all()
    assert len(list(grid.blocks(side))) == math.prod(math.ceil(count / side) for count in grid.shape)


def test_blocks_of_a_large_grid_are_cubes_of_64_voxels():
    grid = grid_around((130, 64, 65), AFFINES["RAS"])
    boxes = [box for box, _ in grid.blocks()]
    assert boxes == [
        VoxelBox((x, 0, z), (min(x + 64, 130), 64, min(z + 64, 65))) for x in (0, 64, 128) for z in (0, 64)
    ]


def scattered(grid, seed=0, reach=0.6, count=43):
    """Points about a place of the grid; some of them beyond its faces."""
    generator = torch.Generator().manual_seed(seed)
    shape = torch.tensor(grid.shape)
    middle = torch.rand(3, generator=generator) * (shape + 4) - 2
    voxel = middle + (torch.rand(1, count, 3, generator=generator) * 2 - 1) * reach * shape
    return apply_affine(grid.voxel_to_world, voxel.double()).float()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("margin", [0, 2])
def test_the_box_around_points_contains_the_neighbours_of_all(linear, seed, margin):
    """Brute force: the eight voxels around each point, and the margin around these, inside the grid."""
    grid = grid_around((14, 11, 17), linear * 1.5, (3, -2, 7))
    points = scattered(grid, seed, reach=(0.05, 0.2, 0.6)[seed % 3])
    box = grid.box_around(points, margin)
    voxel = grid.to_voxel(points.double())[0]
    # A coordinate within rounding of a voxel's centre has that voxel as its only neighbour.
    first, last = (voxel + 1e-5).floor().long() - margin, (voxel - 1e-5).ceil().long() + margin
    needed = torch.zeros(grid.shape, dtype=torch.bool)
    for lower, upper in zip(first.clamp(min=0).tolist(), (last + 1).clamp(min=0).tolist(), strict=True):
        needed[tuple(slice(a, b) for a, b in zip(lower, upper, strict=True))] = True
    inside = torch.zeros_like(needed)
    inside[box.slices] = True
    assert (inside | ~needed).all()
    assert all(0 <= a <= b <= n for a, b, n in zip(*box, grid.shape, strict=True))


@pytest.mark.parametrize("name", ["RAS", "LAS", "LPS", "LIA", "anisotropic"])
def test_the_box_around_points_is_no_larger_than_necessary_along_the_axes_of_the_world(name):
    grid = grid_around((14, 11, 17), AFFINES[name], (3, -2, 7))
    voxel = torch.tensor([[[4.2, 5.1, 6.9], [6.6, 5.7, 15.3]]], dtype=torch.float64)
    points = apply_affine(grid.voxel_to_world, voxel).float()
    assert grid.box_around(points, 0) == VoxelBox((4, 5, 6), (8, 7, 17))
    assert grid.box_around(points, 2) == VoxelBox((2, 3, 4), (10, 9, 17))  # clipped along the last axis
    assert grid.box_around(points[:, :1], 1) == VoxelBox((3, 4, 5), (7, 8, 9))


def test_points_that_are_not_finite_have_no_part_in_the_box(linear):
    grid = grid_around((14, 11, 17), linear)
    points = scattered(grid, reach=0.2)
    broken = torch.cat([points, points])
    broken[1, ::2, 1] = torch.nan
    broken[1, 1::2, 0] = torch.inf
    assert grid.box_around(broken, 1) == grid.box_around(points, 1)
    assert grid.box_around(torch.full((1, 3, 3), torch.nan), 1).is_empty


def test_no_points_have_an_empty_box():
    grid = grid_around((14, 11, 17), AFFINES["RAS"])
    assert grid.box_around(torch.zeros(1, 0, 3), 1).is_empty


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [-1, 1])
def test_points_far_outside_have_an_empty_box(linear, axis, sign):
    grid = grid_around((14, 11, 17), linear)
    direction = sign * grid.voxel_to_world[0, :3, axis]
    points = (grid.center_world + 40 * direction)[:, None].float()
    assert grid.box_around(points, 2).is_empty


def test_a_box_is_counted_clipped_and_sliced_by_hand():
    box = VoxelBox.at((1, 2, 3), (4, 2, 5))
    assert box == VoxelBox((1, 2, 3), (5, 4, 8))
    assert box.shape == (4, 2, 5)
    assert box.slices == (slice(1, 5), slice(2, 4), slice(3, 8))
    assert not box.is_empty
    assert box.widened(2, (6, 20, 9)) == VoxelBox((0, 0, 1), (6, 6, 9))
    for empty in (VoxelBox((1, 2, 3), (1, 4, 8)), VoxelBox((1, 2, 3), (5, 4, 2))):
        assert empty.is_empty
        assert 0 in empty.shape
        assert min(empty.shape) == 0


def test_a_covering_grid_has_the_box_in_its_middle_and_the_fewest_voxels():
    """By hand: 10, 4 and 21 mm in voxels of 3 mm are 4, 2 and 7 voxels."""
    box = torch.tensor([[-2.0, 5, 1], [8.0, 9, 22]])
    grid = Grid.covering(box, 3.0)
    assert grid.shape == (4, 2, 7)
    assert Grid.covering(box, 3.0, least=(5, 5, 5)).shape == (5, 5, 7)
    torch.testing.assert_close(grid.center_world, torch.tensor([[3.0, 7, 11.5]], dtype=torch.float64))
    expected = torch.diag(torch.tensor([3.0, 3, 3], dtype=torch.float64))
    torch.testing.assert_close(grid.voxel_to_world[0, :3, :3], expected)


def test_a_widened_grid_has_the_same_voxels_and_more_around_them(linear):
    grid = grid_around((4, 5, 6), linear, (3, -2, 7))
    wider = grid.widened(2)
    assert wider.shape == (8, 9, 10)
    torch.testing.assert_close(wider.points_world()[:, 2:-2, 2:-2, 2:-2], grid.points_world())


def test_grids_are_equal_if_their_shapes_and_poses_are(linear):
    grid = grid_around((4, 5, 6), linear, (3, -2, 7))
    assert grid.equals(grid_around((4, 5, 6), linear, (3, -2, 7)))
    assert not grid.equals(Grid((4, 5, 7), grid.voxel_to_world))
    for row, column in ((0, 3), (1, 0), (2, 2)):
        moved = grid.voxel_to_world.clone()
        moved[0, row, column] += 1e-9
        assert not grid.equals(Grid(grid.shape, moved))


def test_corners_are_the_outermost_voxels(linear):
    grid = grid_around((3, 4, 5), linear)
    points = grid.points_world()[0]
    torch.testing.assert_close(grid.corners_world()[0, 0].float(), points[0, 0, 0])
    torch.testing.assert_close(grid.corners_world()[0, 7].float(), points[-1, -1, -1])


def test_a_resampled_grid_covers_the_same_voxels(linear):
    grid = grid_around((20, 31, 12), linear * 1.5, (3.0, -2, 1))
    for spacing in (0.7, 1.5, 4.0):
        other = grid.resampled(spacing)
        torch.testing.assert_close(other.spacing_mm, torch.full((1, 3), spacing, dtype=torch.float64))
        torch.testing.assert_close(other.center_world, grid.center_world)
        extents = [torch.tensor(g.shape) * g.spacing_mm[0] for g in (grid, other)]
        assert (extents[1] - extents[0] > -1e-6).all()
        assert (extents[1] - extents[0] < spacing).all()
