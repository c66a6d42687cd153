"""Arrays with their axes in another order or direction."""

from dataclasses import dataclass

import numpy as np
import torch

from patchmorph.spatial.affine import from_linear
from patchmorph.spatial.grid import Grid, Shape, VoxelBox, triple


@dataclass(frozen=True)
class Turn:
    """How an array is turned.

    Attributes:
        axes: the axis of the array along each axis of the turned one.
        flipped: axes of the turned array that run in the opposite direction.
    """

    axes: Shape = (0, 1, 2)
    flipped: tuple[int, ...] = ()

    def then(self, other: "Turn") -> "Turn":
        """This turn and then another one."""
        axes = triple(self.axes[axis] for axis in other.axes)
        flipped = (k for k in range(3) if (other.axes[k] in self.flipped) != (k in other.flipped))
        return Turn(axes, tuple(flipped))

    def shape(self, shape: Shape) -> Shape:
        """The shape of a turned array."""
        return triple(shape[axis] for axis in self.axes)

    def source(self, box: VoxelBox, shape: Shape) -> VoxelBox:
        """The box of an array of ``shape`` that becomes ``box`` of the turned one."""
        start, stop = [0, 0, 0], [0, 0, 0]
        for k, axis in enumerate(self.axes):
            first, last = box.start[k], box.stop[k]
            is_flipped = k in self.flipped
            start[axis] = shape[axis] - last if is_flipped else first
            stop[axis] = shape[axis] - first if is_flipped else last
        return VoxelBox(triple(start), triple(stop))

    def array(self, array: np.ndarray) -> np.ndarray:
        """An array ``[x, y, z]``, turned."""
        return np.flip(array.transpose(self.axes), self.flipped)

    def grid(self, grid: Grid) -> Grid:
        """The grid of a turned array, whose voxels stay where they are."""
        shape = self.shape(grid.shape)
        linear, shift = np.zeros((1, 3, 3)), np.zeros((1, 3))
        for k, axis in enumerate(self.axes):
            linear[0, axis, k] = -1.0 if k in self.flipped else 1.0
            shift[0, axis] = shape[k] - 1.0 if k in self.flipped else 0.0
        return grid.framed(shape, from_linear(torch.from_numpy(linear), torch.from_numpy(shift)))
