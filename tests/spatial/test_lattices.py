"""Interpolation along the axes of a lattice is that at its points, in every orientation, or is declined."""

import itertools

import numpy as np
import pytest
import torch

from patchmorph.spatial.bsplines import nearest_spline, sample_spline
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.lattices import along_axes, nearest_spline_at, sample_lattice
from patchmorph.spatial.sampling import sample_linear

SHAPE = (7, 9, 11)
LATTICE = (12, 10, 14)


def matrices():
    """Every permutation and flip of the axes, with unequal steps, beginning outside of the array."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            matrix = np.eye(4)
            matrix[:3, :3] = np.eye(3)[list(order)] * np.array(signs) * np.array([0.7, 1.1, 0.9])
            ends = [sum(min(0.0, matrix[k, j] * (LATTICE[j] - 1)) for j in range(3)) for k in range(3)]
            matrix[:3, 3] = [-1.3 - end for end in ends]
            yield torch.from_numpy(matrix)[None]


@pytest.mark.parametrize("outside", ["zeros", "border"])
def test_values_are_those_at_the_points(outside):
    data = torch.rand(1, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    for matrix in matrices():
        axes = along_axes(matrix, LATTICE)
        assert axes is not None
        points = Grid(LATTICE, matrix).points_world()
        expected = sample_linear(data, points, outside)
        found = sample_lattice(data, matrix, axes, LATTICE, outside)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)  # float32 coordinates
        assert expected.std() > 0.1


def test_a_lattice_beyond_the_array_reads_its_border_or_zeros():
    data = torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(0))
    for shift in (40.0, -40.0):
        matrix = torch.eye(4, dtype=torch.float64)[None].clone()
        matrix[0, :3, 3] = shift
        corner = data[..., -1, -1, -1] if shift > 0 else data[..., 0, 0, 0]
        assert (sample_lattice(data, matrix, (0, 1, 2), LATTICE, "border") == corner).all()
        assert (sample_lattice(data, matrix, (0, 1, 2), LATTICE, "zeros") == 0).all()


@pytest.mark.parametrize("degree", [3, 5])
def test_splines_have_the_values_at_the_points(degree):
    data = torch.rand(1, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    for matrix in matrices():
        axes = along_axes(matrix, LATTICE)
        assert axes is not None
        expected = sample_spline(data, Grid(LATTICE, matrix).points_world(), ends="odd", degree=degree)
        found = sample_lattice(data, matrix, axes, LATTICE, "border", degree)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
        assert expected.std() > 0.01


@pytest.mark.parametrize("tilt", [1e-3, 0.2, 1.0])
def test_oblique_axes_are_declined(tilt):
    matrix = torch.eye(4, dtype=torch.float64)[None].clone()
    matrix[0, 0, 1] = tilt
    assert along_axes(matrix, LATTICE) is None
    matrix[0, 0, 1] = 1e-7  # rounding of a header: a millionth of a voxel from end to end
    assert along_axes(matrix, LATTICE) == (0, 1, 2)


@pytest.mark.parametrize("degree", [3, 5])
def test_one_matrix_fits_a_spline_and_reads_it(degree):
    values = torch.randn(1, 2, 9, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    voxel = torch.tensor([0.0, 0.25, 3.5, 6.75, 8.0], dtype=torch.float64)
    matrix = nearest_spline_at(voxel, 9, degree)
    found = torch.einsum("mn,bcnxy->bcmxy", matrix, values)[..., 0, 0]
    wide = values.expand(1, 2, 9, 9, 9)  # constant along the others
    points = torch.stack([voxel, torch.full_like(voxel, 4.0), torch.full_like(voxel, 4.0)], -1)[None]
    expected = sample_spline(nearest_spline(wide, degree).float(), points.float(), ends="odd", degree=degree)
    assert torch.allclose(found.float(), expected, atol=1e-5)
