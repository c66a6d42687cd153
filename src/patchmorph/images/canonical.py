"""One storage order for every image, so that the same image gives the same map however it was stored.

Networks in bfloat16 enlarge a difference in the last digit of an intensity or a coordinate to tenths of a
millimetre (docs/decisions/015). So an image is compared with its axes in the order and direction nearest to
RAS+, and on a grid without the last digits of its header, which formats round differently.
"""

import math

import torch

from patchmorph.images.chunked import StoredImage
from patchmorph.images.field_of_view import Face
from patchmorph.images.turning import Turn
from patchmorph.spatial.affine import from_linear
from patchmorph.spatial.grid import Grid, triple

CENTER_STEP, AXES_STEP = 2.0**-12, 2.0**-18
"""Steps of the centre of the grid and of its axes, relative to a power of two near the voxel size: a voxel of
an image of 256³ moves by a four thousandth of its size at most."""


def turn_of(grid: Grid) -> Turn:
    """The turn of an array on ``grid`` to RAS+, as nearly as its axes allow."""
    letters = grid.orientation
    axes = triple(next(k for k in range(3) if letters[k] in pair) for pair in ("LR", "PA", "IS"))
    return Turn(axes, tuple(k for k, axis in enumerate(axes) if letters[axis] in "LPI"))


def turned_faces(turn: Turn, faces: tuple[Face, ...]) -> tuple[Face, ...]:
    """The same faces of a turned array."""
    turned = ((turn.axes.index(axis), side) for axis, side in faces)
    return tuple((axis, 1 - side if axis in turn.flipped else side) for axis, side in turned)


def canonical(image: StoredImage) -> StoredImage:
    """The same image in the order of RAS+, on a rounded grid; its voxels are copied if they are turned.

    Args:
        image: of any orientation.
    """
    turn = turn_of(image.grid)
    faces = turned_faces(turn, image.truncated_faces)
    return image.turned(turn, rounded(turn.grid(image.grid)), faces)


def rounded(grid: Grid) -> Grid:
    """``grid`` without the last digits of its numbers."""
    unit = 2.0 ** round(math.log2(float(grid.spacing_mm.min())))
    axes = _multiple(grid.voxel_to_world[:, :3, :3], AXES_STEP * unit)
    center = _multiple(grid.center_world, CENTER_STEP * unit)
    middle = (torch.tensor(grid.shape, dtype=torch.float64) - 1) / 2
    return Grid(grid.shape, from_linear(axes, center - (axes @ middle)), grid.points_device)


def _multiple(values: torch.Tensor, step: float) -> torch.Tensor:
    return (values / step).round() * step
