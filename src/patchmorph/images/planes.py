"""Three world-aligned planes of images side by side, as a small PNG file for notebooks."""

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.images.abstract import AbstractImage
from patchmorph.spatial.affine import from_linear
from patchmorph.spatial.grid import Grid

SIDE = 160
"""Samples along the longest side of a plane."""
GAP = 2
"""Dark pixels between two planes."""
WINDOW = 0.005, 0.995
"""Quantiles of the intensities that are shown as black and white."""

Points = Callable[[Tensor], Tensor]
"""A map of points, RAS+ mm."""


def plane_grids(grid: Grid, center_world: Float[Tensor, " 3"] | None = None) -> list[Grid]:
    """Sagittal, coronal and axial lattice over the box around ``grid``, through a point or its middle.

    Each has one point along the world axis across it; `SIDE` points lie along the longest side of the box.
    """
    corners = grid.corners_world()[0]
    lower, upper = corners.amin(0), corners.amax(0)
    center = (lower + upper) / 2 if center_world is None else center_world.double()
    spacing = max(float((upper - lower).max()) / (SIDE - 1), 1e-9)
    grids = []
    for normal in range(3):
        shape = [max(2, 1 + round(length / spacing)) for length in (upper - lower).tolist()]
        origin = lower.clone()
        shape[normal], origin[normal] = 1, center[normal]
        linear = torch.eye(3, dtype=torch.float64, device=lower.device) * spacing
        grids.append(Grid((shape[0], shape[1], shape[2]), from_linear(linear[None], origin[None])))
    return grids


def sampled_planes(
    image: AbstractImage, grids: Sequence[Grid], mapped: Points | None = None
) -> list[Float[np.ndarray, "v u"]]:
    """The first channel on each lattice, seen through ``mapped``; the first row is the upper edge."""
    planes = []
    for normal, grid in enumerate(grids):
        points = grid.points_world()
        with torch.no_grad():
            place = points if mapped is None else mapped(points)
            values = image.sample(place, float(grid.spacing_mm.min()))[0, 0]
        planes.append(values.squeeze(normal).float().cpu().numpy().T[::-1])
    return planes


def stretched(planes: Sequence[Float[np.ndarray, "_ _"]]) -> list[Float[np.ndarray, "_ _"]]:
    """Intensities from 0 to 1, by `WINDOW` of all planes together."""
    values = np.concatenate([plane[np.isfinite(plane)] for plane in planes])
    low, high = np.quantile(values, WINDOW) if values.size else (0.0, 1.0)
    width = float(high - low) or 1.0
    return [np.nan_to_num((plane - low) / width).clip(0, 1) for plane in planes]


def png(rows: Sequence[Sequence[np.ndarray]]) -> bytes:
    """A PNG file of rows of planes ``[v, u]`` (grey) or ``[v, u, 3]``, from 0 to 1."""
    from matplotlib.image import imsave

    height = max(plane.shape[0] for row in rows for plane in row)
    lines = [np.concatenate([_padded(plane, height) for plane in row], axis=1) for row in rows]
    buffer = io.BytesIO()
    imsave(buffer, np.concatenate(lines, axis=0), format="png")
    return buffer.getvalue()


def _padded(plane: np.ndarray, height: int) -> np.ndarray:
    """The plane in colours, in the middle of ``height`` rows, with a gap around it."""
    coloured = plane if plane.ndim == 3 else np.repeat(plane[..., None], 3, axis=2)
    above = (height - plane.shape[0]) // 2
    below = height - plane.shape[0] - above
    return np.pad(coloured, ((above + GAP, below + GAP), (GAP, GAP), (0, 0)))
