"""What holds for every grid."""

import torch
from drawn import few, grids, points_in, seeds, turns
from hypothesis import assume, given
from hypothesis import strategies as st

from patchmorph.images.canonical import turn_of
from patchmorph.spatial.affine import apply_affine


@given(grids(), seeds)
def test_voxels_of_world_points_are_where_they_were(grid, seed):
    points = points_in(grid, seed)
    voxels = grid.to_voxel(points)
    back = apply_affine(grid.voxel_to_world, voxels.double())
    # float32 coordinates of up to 200 mm have steps of 2e-5 mm
    assert float((back - points).norm(dim=-1).max()) < 4e-4
    indices = grid.to_voxel(grid.points_world().double())
    steepest = float(torch.linalg.matrix_norm(grid.world_to_voxel[0, :3, :3], 2))  # voxels per mm
    assert float((indices - grid.points_voxel()).abs().max()) < 5e-5 * steepest


@few
@given(grids(), st.integers(1, 6))
def test_blocks_are_a_partition_in_place(grid, side):
    points = grid.points_world()
    count = torch.zeros(grid.shape, dtype=torch.int64)
    for box, block in grid.blocks(side):
        count[box.slices] += 1
        assert block.shape == box.shape
        torch.testing.assert_close(block.points_world(), points[(0, *box.slices)][None], atol=1e-4, rtol=0)
    assert (count == 1).all()


@given(grids(), st.integers(1, 4))
def test_coarse_voxels_are_the_middle_of_their_blocks(grid, factor):
    fine = grid.crop((0, 0, 0), tuple(n * factor for n in grid.shape))
    coarse = fine.coarsen(factor)
    torch.testing.assert_close(coarse.center_world, fine.center_world, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(coarse.spacing_mm, fine.spacing_mm * factor)
    first = fine.crop((0, 0, 0), (factor, factor, factor)).center_world
    torch.testing.assert_close(coarse.points_world()[:, 0, 0, 0].double(), first, atol=1e-4, rtol=0)


@given(grids(), turns)
def test_a_turned_grid_has_the_same_voxels_and_is_turned_back(grid, turn):
    again = turn_of(turn.grid(grid)).grid(turn.grid(grid))
    once = turn_of(grid).grid(grid)
    assert again.shape == once.shape
    torch.testing.assert_close(again.voxel_to_world, once.voxel_to_world, atol=1e-9, rtol=1e-9)


@given(grids(shear=0.0), st.floats(0.3, 4.0))
def test_a_resampled_grid_covers_the_same_volume_with_cubes(grid, factor):
    spacing_mm = factor * float(grid.spacing_mm.min())
    lengths = grid.spacing_mm[0] * torch.tensor(grid.shape)
    assume(float(lengths.max()) < 60 * spacing_mm)
    other = grid.resampled(spacing_mm)
    torch.testing.assert_close(other.spacing_mm, torch.full_like(other.spacing_mm, spacing_mm))
    torch.testing.assert_close(other.center_world, grid.center_world, atol=1e-6, rtol=0)
    for axis, (count, own) in enumerate(zip(other.shape, grid.shape, strict=True)):
        length = float(grid.spacing_mm[0, axis]) * own
        assert length - 1e-5 * spacing_mm <= count * spacing_mm < length + spacing_mm * (1 + 1e-5)


@given(grids(), seeds, st.integers(0, 3))
def test_the_box_around_points_holds_their_neighbours(grid, seed, margin):
    points = points_in(grid, seed, count=5)
    box = grid.box_around(points, margin)
    voxels = grid.to_voxel(points)[0]
    for voxel in voxels.tolist():
        for k in range(3):
            assert box.start[k] <= max(0, int(voxel[k] + 1e-4) - margin)
            assert box.stop[k] >= min(grid.shape[k], int(voxel[k] + 1 - 1e-4) + margin + 1)
