"""Zarr arrays as stores of voxels, on a disk or behind a URL."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.images.stores import VoxelStore
from patchmorph.io.extras import extra
from patchmorph.io.formats.base import unreadable
from patchmorph.io.formats.chosen import Chosen
from patchmorph.spatial.grid import VoxelBox, triple

KIND = "Zarr"
MIN_SIDE = 32
"""Voxels along each side of what is read at a time, at least: smaller chunks are read together."""
MANY_CHUNKS, MOST_CHUNKS, SMALL_CHUNK, MIN_STORED = 2**15, 2**22, 2**13, 0.01
"""An array of many small chunks (voxels) of which fewer than this part are stored is refused, and one of
still more in any case: zarr takes 0.2 ms for each chunk, stored or not, so that a few bytes of a header would
take hours."""


class ZarrStore(VoxelStore):
    """One channel and time of a Zarr array.

    Args:
        array: of zarr.
        axes: the dimension of the array along each of our axes x, y, z.
        fixed: index along each other dimension.
        path: for messages.
    """

    def __init__(self, array: Any, axes: tuple[int, int, int], fixed: Mapping[int, int], path: Path):
        self.array, self.axes, self.fixed, self.name = array, axes, dict(fixed), str(path)
        self.dtype = np.dtype(array.dtype)
        self.shape = triple(array.shape[axis] for axis in axes)
        if min(array.chunks) < 1:
            raise PatchMorphError(f"chunks must have voxels, got sides of {list(array.chunks)} in {path}")
        self._check_stored(path)
        sides = (array.chunks[axis] for axis in axes)
        self.chunk = triple(
            min(side * -(-MIN_SIDE // side), count) for side, count in zip(sides, self.shape, strict=True)
        )
        kept = sorted(axes)
        self._order = [kept.index(axis) for axis in axes]

    def _check_stored(self, path: Path) -> None:
        """A chunk may claim to be longer than the array, so that only the part of it in there counts."""
        sides = list(zip(self.array.shape, self.array.chunks, strict=True))
        count = math.prod(-(-size // side) for size, side in sides)
        if count <= MANY_CHUNKS or math.prod(min(size, side) for size, side in sides) >= SMALL_CHUNK:
            return
        if count > MOST_CHUNKS:
            raise PatchMorphError(f"chunks must be larger in so large an array, got {count} in {path}")
        if (stored := self.array.nchunks_initialized) < MIN_STORED * count:
            raise PatchMorphError(f"chunks must be stored, got {stored} of {count} in {path}")

    def read(self, box: VoxelBox) -> np.ndarray:
        """The voxels of ``box``; chunks that are not stored have the array's fill value."""
        index: list[Any] = [self.fixed.get(k, slice(None)) for k in range(len(self.array.shape))]
        for axis, part in zip(self.axes, box.slices, strict=True):
            index[axis] = part
        try:
            return np.asarray(self.array[tuple(index)]).transpose(self._order)
        except Exception as error:  # of any codec, storage or network
            got = f"voxels {box.start} to {box.stop} of {self.array.path or 'the array'} in {self.name}"
            raise PatchMorphError(f"chunks must be readable, got {got}: {reason(error)}") from None


def open_zarr(place: Chosen, path: Path) -> Any:
    """The group or array at a place, read only.

    Raises:
        PatchMorphError: zarr is not installed, or nothing of Zarr is there.
    """
    zarr = extra("zarr", "large", "read Zarr")
    try:
        if place.is_url:
            extra("fsspec", "large", "read from a URL")
        return zarr.open(place.place, mode="r")
    except PatchMorphError:
        raise
    except Exception as error:
        raise unreadable(path, reason(error), KIND) from None


def member(group: Any, name: str, path: Path) -> Any:
    """An array of a group.

    Raises:
        PatchMorphError: there is none of this name.
    """
    try:
        found = group[name]
        found.chunks  # noqa: B018 - a group has none
    except Exception as error:
        raise PatchMorphError(f"dataset {name} must be an array, got {reason(error)} in {path}") from None
    return found


def reason(error: Exception) -> str:
    """What a library says of an error."""
    return one_line(error).strip("\"'") or type(error).__name__
