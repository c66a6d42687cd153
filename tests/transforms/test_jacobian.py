import math

import pytest
import torch
from synthetic import grid_around, rotation, smooth_velocity

from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.jacobian import (
    DIFFERENCES,
    LEAST,
    Folding,
    folding,
    jacobian_determinant,
    log_determinant,
)


def test_an_affine_map_has_its_determinant_everywhere(linear):
    matrix = torch.diag(torch.tensor([1.2, 0.5, 2.0, 1.0], dtype=torch.float64))[None]
    determinant = jacobian_determinant(rotation() @ AffineTransform(matrix), grid_around((5, 6, 7), linear))
    assert determinant.shape == (5, 6, 7)
    torch.testing.assert_close(determinant, torch.full((5, 6, 7), 1.2), atol=1e-3, rtol=0)


def test_a_flow_does_not_fold_and_a_reversed_axis_does():
    grid = Grid.centered((16, 16, 16), 3.0, torch.zeros(1, 3))
    assert jacobian_determinant(smooth_velocity(grid, 4.0), grid).min() > 0
    reversing = DisplacementField(
        -2 * grid.points_world().movedim(-1, 1) * torch.tensor([1, 0, 0.0]).reshape(1, 3, 1, 1, 1), grid
    )
    inner = jacobian_determinant(reversing, grid)[1:-1, 1:-1, 1:-1]
    torch.testing.assert_close(inner, torch.full_like(inner, -1.0), atol=1e-3, rtol=0)


def test_central_differences_agree_where_a_map_is_smooth(linear):
    grid = grid_around((12, 13, 14), linear * 3)
    flow = smooth_velocity(grid_around((30, 30, 30), torch.eye(3).numpy() * 3), 3.0)
    forward, central = (jacobian_determinant(flow, grid, differences) for differences in DIFFERENCES)
    assert central.shape == grid.shape
    # Forward differences belong half a voxel further, where the determinant is another.
    assert (forward - central).abs().mean() < 0.05
    exact = jacobian_determinant(rotation(), grid, "central")
    torch.testing.assert_close(exact, torch.ones_like(exact), atol=1e-4, rtol=0)


def test_central_differences_miss_a_fold_that_cells_show():
    """One point moved past its neighbour: its own central difference does not see it."""
    grid = Grid.centered((9, 9, 9), 2.0, torch.zeros(1, 3))
    displacement = torch.zeros(1, 3, 9, 9, 9)
    displacement[0, 0, 4, 4, 4] = 3.0
    folded = DisplacementField(displacement, grid)
    assert jacobian_determinant(folded, grid, "central")[4, 4, 4] > 0
    found = folding(folded, grid)
    assert 0 < found.voxels <= 8  # the cells around the point
    assert found.voxels < found.tetrahedra
    assert found.volume_share == pytest.approx(found.volume_mm3 / (8**3 * 8))


def test_cells_of_a_mirrored_map_are_all_inside_out(linear):
    grid = grid_around((5, 6, 7), linear * 2)
    assert folding(rotation(), grid) == Folding(0, 0, 0.0, 0.0, 0.0)
    mirror = AffineTransform(torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64))[None])
    found = folding(mirror, grid)
    assert (found.voxels, found.tetrahedra, found.voxel_share) == (4 * 5 * 6, 10 * 4 * 5 * 6, 1.0)
    assert found.volume_share == pytest.approx(1.0, abs=1e-4)


def test_the_logarithm_of_a_fold_is_bounded():
    found = log_determinant(torch.tensor([1.0, 0.0, -2.0]))
    torch.testing.assert_close(found, torch.tensor([0.0, math.log(LEAST), math.log(LEAST)]))


def test_what_is_inside_out_is_counted_and_measured():
    """By hand: one plane of 5 × 5 points mirrored past its neighbour, with cells of 2 × 2 × 2 mm."""
    grid = Grid.centered((6, 5, 5), 2.0, torch.zeros(1, 3))
    displacement = torch.zeros(1, 3, 6, 5, 5)
    displacement[:, 0, 2] = 3.0  # to 1 mm beyond the next plane
    found = folding(DisplacementField(displacement, grid), grid)
    assert found.voxels == 16  # the cells behind the plane
    assert found.tetrahedra == 160
    assert found.volume_mm3 == pytest.approx(16 * 4 * 1.0)
    assert found.voxel_share == pytest.approx(16 / 80)
    assert found.volume_share == pytest.approx(64 / (80 * 8))


def test_the_determinant_is_a_ratio_of_volumes_along_each_axis():
    """Stretched by 3, 1/2 and 1 mm a mm: twice the volume would be wrong for any one axis left out."""
    for stretch in ((3.0, 1, 1), (1, 0.5, 1), (1, 1, 4.0)):
        matrix = torch.diag(torch.tensor([*stretch, 1.0], dtype=torch.float64))[None]
        for differences in DIFFERENCES:
            found = jacobian_determinant(
                AffineTransform(matrix), grid_around((3, 4, 5), torch.eye(3).numpy()), differences
            )
            expected = torch.full((3, 4, 5), math.prod(stretch))
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
