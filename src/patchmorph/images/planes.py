"""Three world-aligned planes of images, as pictures: for notebooks and for the report."""

import io
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from patchmorph.images.abstract import AbstractImage
from patchmorph.spatial.affine import from_linear
from patchmorph.spatial.grid import Grid, triple

SIDE = 160
"""Samples along the longest side of a plane in a notebook."""
GAP = 2
"""Dark pixels between two planes."""
WINDOW = 0.005, 0.995
"""Quantiles of the intensities that are shown as black and white."""

PNG_LEVEL = 2
"""Of compression: a third of the time of the usual 6, for files that are 9 % larger."""

Points = Callable[[Tensor], Tensor]
"""A map of points, RAS+ mm."""


def plane_grids(
    box_world: Float[Tensor, "2 3"],
    center_world: Float[Tensor, " 3"] | None = None,
    points: int = SIDE,
    device: torch.device | str = "cpu",
) -> list[Grid]:
    """Sagittal, coronal and axial lattice over a box, each with one point along the world axis across it.

    Args:
        box_world: two corners of the box.
        center_world: a point in all three planes; by default the middle of the box.
        points: along the longest side of the box.
        device: of the points.
    """
    lower, upper = box_world.double()
    center = (lower + upper) / 2 if center_world is None else center_world.double()
    spacing = max(float((upper - lower).max()) / (points - 1), 1e-9)
    grids = []
    for normal in range(3):
        shape = [max(2, 1 + round(length / spacing)) for length in (upper - lower).tolist()]
        origin = lower.clone()
        shape[normal], origin[normal] = 1, center[normal]
        linear = torch.eye(3, dtype=torch.float64) * spacing
        grids.append(Grid(triple(shape), from_linear(linear[None], origin[None])).to(device))
    return grids


def box_around(grid: Grid) -> Float[Tensor, "2 3"]:
    """The smallest and the largest world coordinates of the corners of ``grid``."""
    return torch.stack(torch.aminmax(grid.corners_world()[0], dim=0))


def flat(values: Float[Tensor, "x y z"], normal: int) -> Float[np.ndarray, "v u"]:
    """Values on the lattice across the axis ``normal`` as a picture, whose first row is the upper edge."""
    return values.squeeze(normal).float().cpu().numpy().T[::-1]


def sampled_planes(
    image: AbstractImage, grids: Sequence[Grid], mapped: Points | None = None
) -> list[Float[np.ndarray, "v u"]]:
    """The first channel on each lattice, seen through ``mapped``."""
    planes = []
    for normal, grid in enumerate(grids):
        points = grid.points_world()
        with torch.no_grad():
            place = points if mapped is None else mapped(points)
            planes.append(flat(image.sample(place, float(grid.spacing_mm.min()))[0, 0], normal))
    return planes


def stretched(planes: Sequence[Float[np.ndarray, "_ _"]]) -> list[Float[np.ndarray, "_ _"]]:
    """Intensities from 0 to 1, by `WINDOW` of all planes together."""
    values = np.concatenate([plane[np.isfinite(plane)] for plane in planes])
    low, high = np.quantile(values, WINDOW) if values.size else (0.0, 1.0)
    width = float(high - low) or 1.0
    return [np.nan_to_num((plane - low) / width).clip(0, 1) for plane in planes]


def png(pixels: UInt8[np.ndarray, "v u 3"]) -> bytes:
    """A PNG file."""
    from PIL import Image as Picture

    buffer = io.BytesIO()
    Picture.fromarray(np.ascontiguousarray(pixels)).save(buffer, "png", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def side_by_side(rows: Sequence[Sequence[np.ndarray]]) -> UInt8[np.ndarray, "v u 3"]:
    """Rows of planes ``[v, u]`` (grey) or ``[v, u, 3]``, from 0 to 1, as one picture."""
    height = max(plane.shape[0] for row in rows for plane in row)
    lines = [np.concatenate([_padded(plane, height) for plane in row], axis=1) for row in rows]
    return as_bytes(np.concatenate(lines, axis=0))


def as_bytes(colours: Float[np.ndarray, "v u 3"]) -> UInt8[np.ndarray, "v u 3"]:
    """Colours from 0 to 1 as bytes; what is beyond is clipped."""
    return np.round(colours.clip(0, 1) * 255).astype(np.uint8)


def _padded(plane: np.ndarray, height: int) -> np.ndarray:
    """The plane in colours, in the middle of ``height`` rows, with a gap around it."""
    above = (height - plane.shape[0]) // 2
    below = height - plane.shape[0] - above
    return np.pad(in_colours(plane), ((above + GAP, below + GAP), (GAP, GAP), (0, 0)))


def in_colours(plane: np.ndarray) -> Float[np.ndarray, "v u 3"]:
    """A grey plane in red, green and blue; one in colours as it is."""
    return plane if plane.ndim == 3 else np.repeat(plane[..., None], 3, axis=2)
