"""Files whose voxels are in chunks: several resolutions, channels and times of one volume."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patchmorph.images.stores import VoxelStore
from patchmorph.io.formats.base import Deferred, LibraryVolume
from patchmorph.spatial.grid import VoxelBox


class FileLevel(NamedTuple):
    """One resolution of one channel and time.

    Attributes:
        store: its voxels.
        to_finest: its voxel indices to those of the finest level, float64 ``[4, 4]``.
    """

    store: VoxelStore
    to_finest: np.ndarray


Levels = Callable[[tuple[int, ...]], list[FileLevel]]
"""The resolutions, the finest first, of a frame: its index along the axes after the third."""


class ChunkedVoxels(Deferred):
    """Voxels ``[x, y, z, *further]`` of the finest level, as nibabel's array proxies are.

    Args:
        levels: of each frame.
        further: sizes of the axes after the third.
    """

    def __init__(self, levels: Levels, further: tuple[int, ...]):
        first = levels((0,) * len(further))[0].store
        self.levels, self.further = levels, further
        super().__init__((*first.shape, *further), first.dtype.newbyteorder("="), self._whole)

    def __getitem__(self, index: Any) -> np.ndarray:
        """A frame by its index ``(..., *further)`` is read alone."""
        if isinstance(index, tuple) and index and index[0] is ... and len(index) == 1 + len(self.further):
            return self._frame(tuple(int(one) for one in index[1:]))
        return self.values[index]

    def _whole(self) -> np.ndarray:
        frames = [self._frame(index) for index in np.ndindex(*self.further)]
        return np.stack(frames, -1).reshape(self.shape)

    def _frame(self, index: tuple[int, ...]) -> np.ndarray:
        store = self.levels(index)[0].store
        return store.read(VoxelBox((0, 0, 0), store.shape)).astype(self.dtype, copy=False)


class ChunkedFile(LibraryVolume):
    """A volume in chunks, whose damage shows when they are read.

    Args:
        path: of the file.
        levels: resolutions of each frame.
        matrix: voxel to world, RAS+ mm, float64 ``[4, 4]``.
        further: sizes of the axes after the third.
        attributes: see `LibraryVolume`.
    """

    packed = False
    slices_first = True

    def __init__(
        self, path: Path, levels: Levels, matrix: np.ndarray, further: tuple[int, ...] = (), **attributes: Any
    ):
        super().__init__(path, ChunkedVoxels(levels, further), matrix, levels=levels, **attributes)
