"""Stores of voxels in files that are no chunks: arrays mapped into memory, and pages read one by one."""

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from patchmorph.errors import PatchMorphError
from patchmorph.images.stores import VoxelStore
from patchmorph.spatial.grid import Shape, VoxelBox, triple

ROW, SIDE = 256, 32
"""Voxels that are read at a time along the axis that is contiguous in the file, and along the others."""


class MappedStore(VoxelStore):
    """An array in a file that is not compressed.

    The file is mapped for each read, so that pages that were read do not count as memory of the process.

    Args:
        path: of the file.
        dtype: of the numbers in the file, with their byte order.
        shape: of the array in the file, the last axis contiguous.
        offset: bytes before it.
        axes: the axis of the file's array along each of x, y, z.
        scale: slope and intercept of the values; ``None``: they are as stored.
    """

    def __init__(
        self,
        path: Path,
        dtype: np.dtype,
        shape: tuple[int, ...],
        offset: int,
        axes: Shape,
        scale: tuple[float, float] | None = None,
    ):
        self.path, self.name, self._stored, self._offset = path, str(path), dtype, offset
        self._shape, self.axes, self.scale = shape, axes, scale
        self.dtype = dtype.newbyteorder("=") if scale is None else np.dtype(np.float64)
        self.shape = triple(shape[axis] for axis in axes)
        last = len(shape) - 1
        self.chunk = triple(min(ROW if axis == last else SIDE, shape[axis]) for axis in axes)

    def read(self, box: VoxelBox) -> np.ndarray:
        """The voxels of ``box``."""
        try:
            array = np.memmap(self.path, self._stored, "r", self._offset, self._shape)
        except (OSError, ValueError) as error:
            raise PatchMorphError(f"image must be whole, got {self.path}: {error}") from None
        values = np.array(array.transpose(self.axes)[box.slices], self.dtype)
        if self.scale is not None:
            values = values * self.scale[0] + self.scale[1]
        return values


class PagesStore(VoxelStore):
    """Slices that are stored one by one, and read as a whole.

    Args:
        read_page: the slice ``[y, x]`` of an index.
        shape: columns, rows, slices.
        dtype: of the voxels.
        path: for messages.
    """

    def __init__(self, read_page: Callable[[int], np.ndarray], shape: Shape, dtype: np.dtype, path: Path):
        self._read_page, self.shape, self.dtype, self.name = read_page, shape, dtype, str(path)
        self.chunk = (shape[0], shape[1], 1)
        self._lock = threading.Lock()

    def read(self, box: VoxelBox) -> np.ndarray:
        """The voxels of ``box``."""
        x, y, z = box.slices
        result = np.empty(box.shape, self.dtype)
        with self._lock:  # which a reader of pages needs: it changes what the process logs
            for k, index in enumerate(range(z.start, z.stop)):
                result[..., k] = self._read_page(index)[y, x].T
        return result
