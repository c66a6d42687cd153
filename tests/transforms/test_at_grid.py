"""The mapped points of a grid are those of its points, whatever the orientations of grid and fields."""

import numpy as np
import torch
from synthetic import grid_around, rotation, smooth_velocity

from patchmorph.spatial import sampling
from patchmorph.transforms import displacement
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.displacement import DisplacementField

TOLERANCE_MM = 2e-4
"""Float32 coordinates of 100 mm in voxels of 4 mm, times slopes below 1."""


def test_points_of_a_grid_are_mapped_as_single_points_are(linear):
    fine, coarse = (smooth_velocity(grid_around((20, 24, 18), np.eye(3) * mm), mm / 2) for mm in (5.0, 10.0))
    outside = DisplacementField(fine.flow.displacement, fine.grid, outside="zeros")
    grid = grid_around((31, 27, 33), linear * 3.1, (4.0, 1, 0))
    points = grid.points_world()
    for transform in (fine, outside, rotation(8) @ coarse @ fine, fine @ rotation(8), rotation(8)):
        moved = (transform(points) - points).norm(dim=-1)
        assert moved.max() > 1
        assert (transform.at_grid(grid) - transform(points)).abs().max() < TOLERANCE_MM


def test_a_parallel_field_is_not_sampled_point_by_point(monkeypatch):
    field = smooth_velocity(grid_around((20, 24, 18), np.eye(3) * 5), 2.0).flow
    grid = grid_around((31, 27, 33), np.eye(3)[[2, 0, 1]] * 3.1)
    expected = field.at_grid(grid)

    def fail(*given, **named):
        raise AssertionError

    monkeypatch.setattr(displacement, "sample_linear", fail)
    assert torch.equal(field.at_grid(grid), expected)
    assert sampling.sample_linear is not fail


def test_points_that_are_not_mapped_stay_so_and_leave_the_others():
    values = torch.zeros(1, 3, 6, 6, 6)
    values[..., 2, 3, 4] = torch.nan
    grid = grid_around((6, 6, 6), np.eye(3) * 5)
    field = DisplacementField(values, grid)
    assert torch.equal(field.at_grid(grid).isnan(), field(grid.points_world()).isnan())
    assert 0 < field.at_grid(grid).isnan().sum() < 6**3 * 3


def test_an_affine_map_needs_no_field():
    grid = grid_around((5, 6, 7), np.eye(3))
    assert torch.equal(AffineTransform.identity().at_grid(grid), grid.points_world())
