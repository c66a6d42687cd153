"""The mean of maps is their mean shape, whatever the poses."""

import pytest
import torch
from synthetic import grid_around, rotation, smooth_velocity

from patchmorph.transforms.averages import mean_shape
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.displacement import DisplacementField

GRID = grid_around((20, 24, 18), torch.eye(3).numpy() * 5)
POINTS = GRID.points_world().reshape(1, -1, 3)


def scaling(*factors: float) -> AffineTransform:
    return AffineTransform(torch.diag(torch.tensor([*factors, 1.0]))[None])


def test_the_mean_of_scalings_is_the_scaling_by_the_mean_factor():
    mean = mean_shape(iter([scaling(0.9, 1.0, 1.1), scaling(1.0, 1.2, 1.0)]), GRID, POINTS)
    expected = scaling(0.95, 1.1, 1.05)(POINTS)
    assert (mean(POINTS) - expected).norm(dim=-1).max() < 1e-3  # rounding in float32 at 50 mm


@pytest.mark.parametrize("shape", [scaling(0.9, 1.0, 1.1), smooth_velocity(GRID, 3.0)])
def test_poses_do_not_count(shape: Transform):
    shift = AffineTransform.translation(torch.tensor([[30.0, -20.0, 10.0]]))
    posed = [rotation(40.0) @ shape, shift @ shape, shift @ rotation(-25.0) @ shape]
    expected = mean_shape([shape], GRID, POINTS)
    assert (mean_shape(posed, GRID, POINTS)(POINTS) - expected(POINTS)).norm(dim=-1).max() < 1e-3


def test_after_the_inverse_of_the_mean_the_mean_is_the_identity():
    maps = [rotation(10.0) @ scaling(0.9, 1.0, 1.1), smooth_velocity(GRID, 3.0, 1), scaling(1.1, 1.0, 1.0)]
    mean = mean_shape(maps, GRID, POINTS)
    poses = [AffineTransform.nearest_rigid(POINTS, one(POINTS)) for one in maps]
    inner = GRID.crop((3, 3, 3), (14, 18, 12)).points_world()
    found = [pose.inverse()(one(mean.inverse()(inner))) for pose, one in zip(poses, maps, strict=True)]
    between = DisplacementField(torch.zeros(1, 3, *GRID.shape), GRID)(inner)
    assert (torch.stack(found).mean(0) - between).norm(dim=-1).max() < 0.05  # mm: interpolation of the mean
