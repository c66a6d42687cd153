"""One storage order for every image, so that the same image gives the same map however it was stored.

Networks in bfloat16 enlarge a difference in the last digit of an intensity or a coordinate to tenths of a
millimetre (docs/decisions/015). So an image is compared with its axes in the order and direction nearest to
RAS+, and on a grid without the last digits of its header, which formats round differently.
"""

import math
from dataclasses import dataclass

import torch

from patchmorph.images.volume import Face, Image
from patchmorph.spatial.affine import from_linear
from patchmorph.spatial.grid import Grid, triple

CENTER_STEP, AXES_STEP = 2.0**-12, 2.0**-18
"""Steps of the centre of the grid and of its axes, relative to a power of two near the voxel size: a voxel of
an image of 256³ moves by a four thousandth of its size at most."""


@dataclass(frozen=True)
class StorageOrder:
    """How an array is turned.

    Attributes:
        axes: the axis of the array that runs along each axis of the world.
        flipped: those of the turned array that ran in the opposite direction.
    """

    axes: tuple[int, int, int]
    flipped: tuple[int, ...]

    @classmethod
    def of(cls, grid: Grid) -> "StorageOrder":
        """The order that turns an array on ``grid`` to RAS+, as nearly as its axes allow."""
        letters = grid.orientation
        axes = triple(next(k for k in range(3) if letters[k] in pair) for pair in ("LR", "PA", "IS"))
        return cls(axes, tuple(k for k, axis in enumerate(axes) if letters[axis] in "LPI"))

    def faces(self, faces: tuple[Face, ...]) -> tuple[Face, ...]:
        """The same faces of the turned array."""
        turned = ((self.axes.index(axis), side) for axis, side in faces)
        return tuple((axis, 1 - side if axis in self.flipped else side) for axis, side in turned)

    @property
    def keeps(self) -> bool:
        """Whether the array stays as it is."""
        return self.axes == (0, 1, 2) and not self.flipped


def canonical(image: Image) -> Image:
    """The same image in the order of RAS+, on a rounded grid; its voxels are copied if they are turned.

    Args:
        image: of any orientation.
    """
    order, data = StorageOrder.of(image.grid), image.data
    if not order.keeps:
        data = data.permute(0, 1, *(2 + axis for axis in order.axes)).flip([2 + k for k in order.flipped])
    faces = order.faces(image.truncated_faces)
    return image.stored_as(data.contiguous(), rounded(image.grid, order), faces)


def rounded(grid: Grid, order: StorageOrder) -> Grid:
    """``grid`` in another order, without the last digits of its numbers."""
    shape = triple(grid.shape[axis] for axis in order.axes)
    signs = torch.tensor([-1.0 if k in order.flipped else 1.0 for k in range(3)], dtype=torch.float64)
    axes = grid.voxel_to_world[:, :3, list(order.axes)].cpu() * signs
    unit = 2.0 ** round(math.log2(float(grid.spacing_mm.min())))
    axes = _multiple(axes, AXES_STEP * unit)
    center = _multiple(grid.center_world.cpu(), CENTER_STEP * unit)
    middle = (torch.tensor(shape, dtype=torch.float64) - 1) / 2
    return Grid(shape, from_linear(axes, center - (axes @ middle)).to(grid.device))


def _multiple(values: torch.Tensor, step: float) -> torch.Tensor:
    return (values / step).round() * step
