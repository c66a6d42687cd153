import numpy as np
import torch
from synthetic import grid_around

from patchmorph.spatial.grid import Grid


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


def test_slabs_put_together_are_the_grid(linear):
    grid = grid_around((7, 5, 6), linear)
    slabs = list(grid.slabs(60))
    assert len(slabs) > 2
    torch.testing.assert_close(torch.cat([slab.points_world() for slab in slabs], 1), grid.points_world())


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
