import torch
from synthetic import grid_around, rotation, smooth_velocity

from patchmorph.spatial.grid import Grid
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.jacobian import jacobian_determinant


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
