"""Grids in every orientation, brain-like images and smooth maps, all made from formulas."""

import numpy as np
import torch
from torch.nn import functional

from patchmorph.images.volume import Image
from patchmorph.spatial.affine import about_point, exponential, skew
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.velocity import VelocityField


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


def lopsided(grid: Grid) -> Image:
    """Like `smooth_image`, but with a front, a top and a left side: a pose of it is known again."""
    image = smooth_image(grid)
    x, y, z = grid.points_world()[0].unbind(-1)
    flat = torch.sigmoid((z + 35 - 0.3 * y) / 3) * (1 - 0.5 * torch.sigmoid((y - 40) / 4))
    bump = torch.exp(-(((x + 35) / 15) ** 2 + ((y + 40) / 15) ** 2 + ((z - 20) / 15) ** 2))
    return Image(image.data * flat * (1 - 0.7 * bump), grid, "lopsided")


def rotation(degrees=20.0):
    axis = torch.tensor([[0.0, 0.6, 0.8]], dtype=torch.float64)
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return AffineTransform(
        about_point(exponential(skew(axis * angle)), torch.tensor([[5.0, 1, 2]], dtype=torch.float64))
    )


def smooth_velocity(grid: Grid, amplitude: float, seed=0) -> VelocityField:
    noise = torch.randn(1, 3, 5, 5, 5, generator=torch.Generator().manual_seed(seed))
    field = functional.interpolate(noise, size=grid.shape, mode="trilinear", align_corners=True)
    for _ in range(2):  # rounds the kinks at the lattice's points
        field = functional.avg_pool3d(field, 5, 1, 2, count_include_pad=False)
    return VelocityField(amplitude * field, grid)
