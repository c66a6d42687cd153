"""Where the voxels of an image that is larger than memory are: the interface that storages have."""

from abc import ABC, abstractmethod

import numpy as np

from patchmorph.spatial.grid import Shape, VoxelBox, triple


class VoxelStore(ABC):
    """One channel of a volume on a disk or a server.

    Contract: ``read`` returns the voxels of any box inside ``shape``. It may run in several threads at once.
    It is fastest for boxes whose ends are multiples of ``chunk``.

    Attributes:
        name: in messages, usually the path.
        shape: voxels along the three array axes, in nibabel's order.
        dtype: of the voxels.
        chunk: voxels along each axis that are stored together.
    """

    name: str
    shape: Shape
    dtype: np.dtype
    chunk: Shape

    @abstractmethod
    def read(self, box: VoxelBox) -> np.ndarray:
        """The voxels of ``box``, ``[x, y, z]``.

        Raises:
            PatchMorphError: a damaged chunk, or one that cannot be reached.
        """

    @property
    def nbytes(self) -> int:
        """Size of all voxels."""
        x, y, z = self.shape
        return x * y * z * self.dtype.itemsize


class ArrayStore(VoxelStore):
    """An array that is in memory, or mapped into it.

    Args:
        array: ``[x, y, z]``.
        name: see `VoxelStore`.
        chunk: see `VoxelStore`.
    """

    def __init__(self, array: np.ndarray, name: str = "array", chunk: Shape = (64, 64, 64)):
        self.array, self.name, self.dtype = array, name, array.dtype
        self.shape = triple(array.shape)
        self.chunk = triple(map(min, chunk, self.shape))

    def read(self, box: VoxelBox) -> np.ndarray:
        """The voxels of ``box``."""
        return np.asarray(self.array[box.slices])
