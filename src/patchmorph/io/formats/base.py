"""What an image format is, and volumes as other libraries than nibabel read them."""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from nibabel.spatialimages import SpatialImage

from patchmorph.errors import PatchMorphError, one_line


@dataclass(frozen=True)
class Layout:
    """What a file is to hold.

    Attributes:
        path: of the file, for messages.
        shape: sizes of the three axes, and of further ones.
        dtype: number type of the voxels.
        matrix: voxel to world, RAS+ mm, float64 ``[4, 4]``.
        code: NIfTI's code of the space.
        source: header of the NIfTI file that was resampled, whose time information is kept.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    matrix: np.ndarray
    code: int
    source: nibabel.Nifti1Header | None = None


Write = Callable[[Iterable[np.ndarray], Layout, Path], None]
"""Write frames ``[X, Y, Z]`` to a temporary path that has the ending of the file."""


class ImageFormat(NamedTuple):
    """One kind of image.

    Attributes:
        name: in messages.
        endings: of names of files to write.
        recognises: whether a file or folder is of this kind, by its path and its first bytes.
        open: a volume whose voxels are read on access.
        write: ``None`` if the format is only read.
        check_writer: checks that what writes it is installed.
    """

    name: str
    endings: tuple[str, ...]
    recognises: Callable[[Path, bytes], bool]
    open: Callable[[Path], SpatialImage]
    write: Write | None = None
    check_writer: Callable[[Path], None] = lambda path: None


class Deferred:
    """Voxels that are read at first access, as nibabel's array proxies are.

    Args:
        shape: of the array.
        dtype: of the array.
        read: returns the array; called once.
    """

    is_proxy = True

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, read: Callable[[], np.ndarray]):
        self.shape, self.dtype, self._read = shape, dtype, read

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @functools.cached_property
    def values(self) -> np.ndarray:
        """All voxels.

        Raises:
            ValueError: another shape than the header states.
        """
        values = self._read()
        if values.shape != self.shape:
            raise ValueError(f"its voxels have shape {values.shape}, its header states {self.shape}")
        return values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.values, dtype)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.values[index]


class LibraryVolume(SpatialImage):
    """A volume that another library than nibabel reads.

    Attributes:
        kind: name of the format.
        unoriented: why its orientation is unknown; empty if it is known.
        spacing_mm: voxel sizes along the array axes; ``None`` if the file states none.
        without_spacing: why it states none.
        slices_first: whether `Stated.origin` counts slices, rows, columns, and the array the reverse.
        packed: whether damage shows only when all voxels are read.
        levels: its resolutions, for a volume that need not be read as a whole (see `chunked_file.Levels`).
        notes: how its header was read where that is not obvious.
        doubts: assumptions about the file.
    """

    kind = ""
    unoriented = ""
    spacing_mm: tuple[float, ...] | None = None
    without_spacing = ""
    slices_first = False
    packed = True
    levels: Callable[[tuple[int, ...]], list[Any]] | None = None
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()

    def __init__(self, path: Path, voxels: Deferred, matrix: np.ndarray, **attributes: Any):
        super().__init__(voxels, matrix)  # pyright: ignore[reportArgumentType]
        self.file_map["image"].filename = str(path)
        for name, value in attributes.items():
            setattr(self, name, value)


def shape_of(volume: SpatialImage) -> tuple[int, ...]:
    """Sizes of all dimensions."""
    return tuple(int(size) for size in volume.shape)


def path_of(volume: SpatialImage) -> Path:
    """The file that a volume was opened from."""
    return Path(volume.get_filename() or "image")


def unreadable(path: Path, error: Exception | str, kind: str) -> PatchMorphError:
    """The error to raise where a library cannot read a file: one line."""
    reason = one_line(error) or type(error).__name__
    return PatchMorphError(f"image must be a readable {kind}, got {path}: {reason}")
