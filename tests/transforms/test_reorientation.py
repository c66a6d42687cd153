"""Vectors and tensors turn with the map: rotated fields are known exactly."""

import pytest
import torch
from synthetic import AFFINES, grid_around, rotation, smooth_velocity

from patchmorph.spatial.affine import exponential, skew
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.reorientation import reoriented, rotation_part

SHAPE = (7, 8, 6)
FLIP = torch.diag(torch.tensor([-1.0, -1, 1]))


def turn(x, y, z):
    return exponential(skew(torch.tensor([[x, y, z]], dtype=torch.float64)))[0]


def linear_map(linear):
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3], matrix[:3, 3] = linear, torch.tensor([4.0, -3, 2])
    return AffineTransform(matrix[None])


ROTATIONS = {
    "x": turn(0.5, 0, 0),
    "y": turn(0, -0.9, 0),
    "z": turn(0, 0, 1.2),
    "oblique": turn(0.4, -0.7, 1.1),
}
STRETCH = torch.tensor([[1.3, 0.1, 0.05], [0.1, 0.8, -0.1], [0.05, -0.1, 1.1]], dtype=torch.float64)
"""Symmetric and positive: it has no rotation."""


def vectors(seed=0):
    return torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(seed))


def tensor_of(lower):
    """xx, xy, yy, xz, yz, zz as a matrix, ``[..., 3, 3]``."""
    xx, xy, yy, xz, yz, zz = lower.unbind(-1)
    rows = [torch.stack(row, -1) for row in ((xx, xy, xz), (xy, yy, yz), (xz, yz, zz))]
    return torch.stack(rows, -2)


@pytest.mark.parametrize("name", ROTATIONS)
@pytest.mark.parametrize("stretched", [False, True])
def test_vectors_are_turned_back_by_the_maps_rotation_alone(linear, name, stretched):
    """φ maps fixed to moving points, so directions come back by the inverse; a stretch changes none."""
    rotated = ROTATIONS[name]
    through = linear_map(rotated @ STRETCH if stretched else rotated)
    found = reoriented(vectors(), through, grid_around(SHAPE, linear * 2))
    expected = torch.einsum("ji,bjxyz->bixyz", rotated.float(), vectors())
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ROTATIONS)
@pytest.mark.parametrize("stretched", [False, True])
def test_tensors_are_turned_on_both_sides(linear, name, stretched):
    rotated = ROTATIONS[name]
    through = linear_map(rotated @ STRETCH if stretched else rotated)
    lower = torch.randn(1, 6, *SHAPE, generator=torch.Generator().manual_seed(1))
    found = tensor_of(reoriented(lower, through, grid_around(SHAPE, linear * 2))[0].movedim(0, -1))
    before = tensor_of(lower[0].movedim(0, -1))
    expected = rotated.T.float() @ before @ rotated.float()
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.eigvalsh(found), torch.linalg.eigvalsh(before), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ROTATIONS)
def test_components_along_lps_axes_are_turned_in_their_own_frame(name):
    grid, through = grid_around(SHAPE, AFFINES["LIA"] * 2), linear_map(ROTATIONS[name])
    in_lps = torch.einsum("ij,bjxyz->bixyz", FLIP, vectors())
    found = reoriented(in_lps, through, grid, (-1, -1, 1))
    expected = torch.einsum("ij,bjxyz->bixyz", FLIP, reoriented(vectors(), through, grid))
    torch.testing.assert_close(found, expected)
    if name != "z":  # about z both frames turn alike
        assert (found - reoriented(in_lps, through, grid)).abs().max() > 0.1


def test_each_voxel_is_turned_by_the_map_around_it():
    """By the gradient of a smooth flow, differentiated by autograd in float64."""
    grid = grid_around(SHAPE, AFFINES["oblique"] * 2)
    flow = smooth_velocity(grid_around((24, 24, 24), AFFINES["RAS"] * 2), 6.0)
    field = DisplacementField.tabulate(rotation(35) @ flow, grid_around((40, 40, 40), AFFINES["RAS"]))
    found = reoriented(vectors(), field, grid)
    step, points = 0.5, grid.points_world()
    columns = [
        (field(points + step * axis) - field(points - step * axis)) / (2 * step) for axis in torch.eye(3)
    ]
    u, _, v = torch.linalg.svd(torch.stack(columns, -1)[0].double())
    expected = torch.einsum("xyzji,jxyz->ixyz", (u @ v).float(), vectors()[0])
    inner = (slice(None), *(slice(1, -1),) * 3)
    assert (found[0] - vectors()[0]).abs().max() > 0.5
    torch.testing.assert_close(found[0][inner], expected[inner], atol=0.1, rtol=0)
    torch.testing.assert_close(found.norm(dim=1), vectors().norm(dim=1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [1e-3, 1.0, 50.0])
def test_the_rotation_of_a_matrix_is_that_of_its_polar_decomposition(size):
    matrices = torch.randn(200, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * size
    matrices = matrices[torch.linalg.det(matrices) > 1e-3 * size**3]
    u, _, v = torch.linalg.svd(matrices)
    torch.testing.assert_close(rotation_part(matrices), u @ v, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "matrix", [torch.diag(torch.tensor([1.0, 1, -1])), torch.zeros(3, 3), torch.full((3, 3), torch.nan)]
)
def test_a_fold_turns_nothing(matrix):
    torch.testing.assert_close(rotation_part(matrix[None]), torch.eye(3)[None])
