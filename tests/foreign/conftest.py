"""A map with everything in it, and pairs of images that differ in all that a header says."""

import nibabel
import numpy as np
import pytest
import torch
from synthetic import AFFINES, grid_around
from torch.nn import functional

from patchmorph.io.grids import GridPair, matrix_of
from patchmorph.patches.blending import rim
from patchmorph.spatial.affine import about_point, exponential, skew
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.velocity import VelocityField

PAIRS = [("RAS", "LIA"), ("LIA", "oblique"), ("oblique", "LAS"), ("LAS", "RAS")]


def flow(spacing, amplitude, seed) -> VelocityField:
    noise = torch.randn(1, 3, 6, 6, 6, generator=torch.Generator().manual_seed(seed))
    velocity = amplitude * functional.interpolate(noise, size=(24, 24, 24), mode="trilinear")
    grid = Grid.centered((24, 24, 24), spacing, torch.tensor([[2.0, -3, 4]]))
    return VelocityField(velocity * rim(grid.shape, 2, grid.device), grid)


@pytest.fixture
def affine() -> AffineTransform:
    turn = exponential(skew(torch.tensor([[0.1, 0.2, -0.15]], dtype=torch.float64)))
    stretch = torch.diag(torch.tensor([1.1, 0.95, 1.05], dtype=torch.float64))
    linear = about_point(turn @ stretch, torch.tensor([[10.0, 0, 5]], dtype=torch.float64))
    return AffineTransform.translation(torch.tensor([[6.0, -4.0, 9.0]])) @ AffineTransform(linear)


@pytest.fixture
def chain(affine):
    return affine @ flow(8.0, 3.0, 0) @ flow(4.0, 1.0, 1)


@pytest.fixture(params=PAIRS, ids="-".join)
def pair(request) -> GridPair:
    fixed, moving = (AFFINES[name] for name in request.param)
    return GridPair(
        grid_around((30, 34, 28), fixed * 3, (4.0, -2, 1)),
        grid_around((26, 30, 36), moving * 3.4, (9.0, 3, -5)),
    )


def nibabel_image(grid: Grid) -> nibabel.Nifti1Image:
    """An empty image on ``grid``, as other tools want to know of it."""
    return nibabel.Nifti1Image(np.zeros(grid.shape, np.uint8), matrix_of(grid))


def world_points(count=200, extent=260.0):
    return (torch.rand(1, count, 3, generator=torch.Generator().manual_seed(0)) - 0.5) * extent


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]
