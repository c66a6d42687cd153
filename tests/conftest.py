"""What several rooms' tests share: grids in every orientation, brain-like images, the real data."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from patchmorph.spatial.grid import Grid
from patchmorph.spatial.image import Image

REPOSITORY = Path(__file__).parents[1]
DATA = Path(os.environ.get("PATCHMORPH_DATA", REPOSITORY.parent / "shared" / "data"))

settings.register_profile("steady", deadline=None, max_examples=40, derandomize=True)
settings.load_profile("steady")


def oblique(degrees: float) -> np.ndarray:
    """A rotation about a skew axis (Rodrigues)."""
    axis = np.array([1.0, 2.0, 2.0]) / 3
    cross = np.cross(np.eye(3), axis)
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


AFFINES = {
    "RAS": np.diag([1.0, 1.0, 1.0]),
    "LAS": np.diag([-1.0, 1.0, 1.0]),
    "LPS": np.diag([-1.0, -1.0, 1.0]),
    "LIA": np.array([[-1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]]),
    "oblique": oblique(25),
    "anisotropic": np.diag([1.2, 0.9, 2.0]),
}


@pytest.fixture(params=AFFINES)
def linear(request) -> np.ndarray:
    """The linear part of a voxel-to-world affine, in one of several orientations."""
    return AFFINES[request.param]


def grid_around(shape: tuple[int, int, int], linear: np.ndarray, center=(0.0, 0.0, 0.0)) -> Grid:
    """A grid of a given orientation whose middle is at ``center``."""
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = np.asarray(center) - linear @ ((np.array(shape) - 1) / 2)
    return Grid(shape, torch.from_numpy(affine)[None])


def smooth_image(grid: Grid) -> Image:
    """A brain-sized ellipsoid with structure inside, as a function of the world: any grid shows the same."""
    x, y, z = grid.points_world()[0].double().unbind(-1)
    inside = torch.sigmoid((1 - ((x / 65) ** 2 + (y / 80) ** 2 + (z / 60) ** 2)) * 25)
    folds = torch.sin(x / 7) * torch.sin(y / 8) * torch.sin(z / 6)
    ventricle = torch.exp(-(((x - 12) / 8) ** 2 + (y / 22) ** 2 + ((z - 8) / 9) ** 2))
    values = inside * (0.55 + 0.25 * folds + 0.1 * torch.sin(x / 19 + y / 23)) * (1 - 0.8 * ventricle)
    return Image(values.float()[None, None], grid, "synthetic")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real brains, which is not part of the repository."""
    if not DATA.is_dir():
        pytest.skip(f"no test data in {DATA} (set PATCHMORPH_DATA)")
    return DATA
