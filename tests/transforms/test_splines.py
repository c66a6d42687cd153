"""Flows that are splines: smooth where they are coarse, and otherwise like those that are trilinear."""

import numpy as np
import torch
from synthetic import grid_around, rotation, smooth_velocity

from patchmorph.evaluation.metrics import seam_ratio
from patchmorph.io.transforms.parts import dense_displacement
from patchmorph.spatial.bsplines import spline_coefficients
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform, compose
from patchmorph.transforms.displacement import DisplacementField, InverseDisplacement
from patchmorph.transforms.fields import as_fields
from patchmorph.transforms.jacobian import determinant_of_map, log_determinant
from patchmorph.transforms.velocity import VelocityField, merged

SHAPE = (14, 15, 16)


def rough(grid, amplitude, degree=5, seed=0):
    """A velocity that differs from point to point and is zero at the faces of its grid."""
    values = torch.randn(1, 3, *grid.shape, generator=torch.Generator().manual_seed(seed)) * amplitude
    for axis in (2, 3, 4):
        values.narrow(axis, 0, 1).zero_()
        values.narrow(axis, values.shape[axis] - 1, 1).zero_()
    return VelocityField(values, grid, degree=degree)


def points_in(grid, count=400, margin=2.0):
    last = torch.tensor(grid.shape) - 1 - 2 * margin
    voxel = margin + torch.rand(1, count, 3, generator=torch.Generator().manual_seed(1)) * last
    return AffineTransform(grid.voxel_to_world)(voxel)


def test_points_of_a_grid_are_mapped_as_single_points_are(linear):
    fine, coarse = (rough(grid_around(SHAPE, np.eye(3) * mm), mm / 10) for mm in (5.0, 10.0))
    grid = grid_around((31, 27, 33), linear * 3.1, (4.0, 1, 0))
    points = grid.points_world()
    for transform in (fine, rotation(8) @ coarse @ fine, fine @ rotation(8)):
        assert (transform(points) - points).norm(dim=-1).max() > 0.5
        assert (transform.at_grid(grid) - transform(points)).abs().max() < 2e-4


def test_a_spline_is_near_the_trilinear_flow_and_smoother(linear):
    grid = grid_around(SHAPE, linear * 4)
    smooth, plain = (rough(grid, 0.4, degree) for degree in (5, 1))
    assert smooth.flow.degree == 5
    assert plain.flow.degree == 1
    lattice = Grid(tuple(6 * (n - 5) for n in SHAPE), grid.voxel_to_world @ finer(6, 2))
    ratios = []
    for field in (smooth, plain):
        logs = log_determinant(determinant_of_map(field.at_grid(lattice)[0], lattice))
        index = [(torch.arange(n) + 0.5) / 6 for n in logs.shape]
        ratios.append(seam_ratio(logs, index, torch.ones_like(logs, dtype=torch.bool)))
    assert ratios[0] < 1.35  # slopes are steepest at the points of the lattice, but do not jump
    assert ratios[1] > 3
    through = interpolating(plain.flow)
    for other in (through, DisplacementField(plain.flow.displacement, grid, degree=3)):
        assert apart(smooth, plain) < 0.8 * apart(other, plain)


def interpolating(flow):
    """The spline with the values of a trilinear field at its points, nearly: ends are mirrored."""
    return DisplacementField(spline_coefficients(flow.displacement), flow.grid, degree=3)


def apart(one, other):
    """Root mean square distance in mm."""
    points = points_in(other.grid)
    return (one(points) - other(points)).square().sum(-1).mean().sqrt()


def finer(times, start):
    """From indices of a finer lattice to those of a grid, beginning at its voxel ``start``."""
    matrix = torch.diag(torch.tensor([1 / times] * 3 + [1.0], dtype=torch.float64))[None]
    matrix[0, :3, 3] = start
    return matrix


def test_a_velocity_that_ends_with_zeros_moves_nothing_at_its_faces_and_beyond(linear):
    grid = grid_around(SHAPE, linear * 4)
    field = rough(grid, 3.0)
    assert field.support() is not None
    voxel = torch.rand(1, 300, 3, generator=torch.Generator().manual_seed(0)) * (torch.tensor(SHAPE) - 1)
    for axis, count in enumerate(SHAPE):
        for place in (-3.0, 0.0, count - 1.0, count + 2.0):
            face = voxel.clone()
            face[..., axis] = place
            points = AffineTransform(grid.voxel_to_world)(face)
            torch.testing.assert_close(field(points), points, atol=2e-4, rtol=0)


def test_the_inverse_of_a_spline_takes_points_back(linear):
    grid = grid_around(SHAPE, linear * 4)
    flow = rough(grid, 0.8)
    points = points_in(grid)
    for forward in (flow, flow.flow, rotation() @ flow @ rough(grid, 0.5, seed=1)):
        torch.testing.assert_close(forward.inverse()(forward(points)), points, atol=2e-3, rtol=0)
        torch.testing.assert_close(forward(forward.inverse()(points)), points, atol=2e-3, rtol=0)
    assert isinstance(flow.flow.inverse(), InverseDisplacement)
    assert flow.inverse().backward.degree == 5


def test_a_merged_velocity_is_a_spline_if_its_parts_are():
    grid = grid_around(SHAPE, np.eye(3) * 4)
    for degree in (1, 3, 5):
        assert merged(rough(grid, 1.0, degree), rough(grid, 1.0, degree, 1)).degree == degree


def test_files_of_other_tools_get_one_trilinear_field_that_is_near_the_splines(linear):
    """Of a real map, with its bends, a table of this spacing is 0.04 mm off in the mean (decision 018)."""
    coarse = smooth_velocity(grid_around((16, 16, 16), np.eye(3) * 8), 6.0)
    fine = smooth_velocity(grid_around((28, 28, 28), np.eye(3) * 4), 2.0, seed=1)
    for field in (coarse, fine):
        field.degree = 5
    chain = rotation() @ coarse @ fine
    affine, table = as_fields(chain)
    assert isinstance(affine, AffineTransform)
    assert isinstance(table, DisplacementField)
    assert table.degree == 1
    points = points_in(fine.grid, margin=4.0)
    error = (compose(affine, table)(points) - chain(points)).norm(dim=-1)
    assert error.mean() < 0.02
    assert error.max() < 0.1
    plain = DisplacementField.tabulate(compose(*chain.parts()[1:]), table.grid)
    rougher = (compose(affine, plain)(points) - chain(points)).norm(dim=-1)
    assert error.mean() < rougher.mean() / 1.5


def test_splines_and_inverses_next_to_each_other_share_a_table_and_trilinear_fields_keep_theirs():
    grid = grid_around(SHAPE, np.eye(3) * 4)
    spline, plain = rough(grid, 0.5), rough(grid, 0.5, degree=1, seed=1)
    fields = as_fields(plain @ spline @ spline.inverse() @ rotation() @ plain @ plain.inverse())
    assert [isinstance(field, AffineTransform) for field in fields] == [False, False, True, False, False]
    assert fields[0] is fields[3] is plain.flow
    points = points_in(grid)
    assert (fields[1](points) - points).norm(dim=-1).mean() < 0.1  # forth and back


def test_dense_files_hold_what_a_spline_is_at_their_voxels():
    field = rough(grid_around(SHAPE, np.eye(3) * 4), 1.0).flow
    expected = (field(field.grid.points_world()) - field.grid.points_world())[0]
    np.testing.assert_allclose(dense_displacement(field, field.grid), expected.numpy(), atol=2e-4)


def test_tables_of_splines_are_splines_no_more():
    field = rough(grid_around(SHAPE, np.eye(3) * 4), 1.0).flow
    table = DisplacementField.tabulate(field, field.grid)
    assert table.degree == 1
    points = field.grid.points_world()
    torch.testing.assert_close(table(points), field(points), atol=2e-4, rtol=0)
