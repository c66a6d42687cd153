"""A map that no axis commutes with, and where it takes points."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from synthetic import AFFINES, grid_around, rotation, smooth_velocity

from patchmorph.transforms.base import Transform


@pytest.fixture
def transform() -> Transform:
    return rotation() @ smooth_velocity(grid_around((16, 16, 16), AFFINES["RAS"] * 6), 3.0)


@pytest.fixture
def mapped(transform) -> Callable[[np.ndarray], np.ndarray]:
    """RAS+ mm in, RAS+ mm out."""
    return lambda points: transform(torch.from_numpy(points).float()[None])[0].double().numpy()


class Nowhere(Transform):
    """A map that has no place for points left of the middle."""

    def __call__(self, points: torch.Tensor) -> torch.Tensor:
        return torch.where(points[..., :1] < 0, torch.nan, points)

    def inverse(self) -> Transform:
        return self

    def to(self, device) -> Transform:
        return self


@pytest.fixture
def nowhere() -> Transform:
    return Nowhere()
