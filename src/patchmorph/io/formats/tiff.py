"""TIFF: a file of pages, or a folder of 2D files in natural order, read and written by tifffile.

Our array axes are columns, rows, slices, as ITK's. TIFF states no orientation; voxel sizes may stand in the
metadata (`tiff_metadata`). Files are written as ImageJ's hyperstacks.
"""

import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from patchmorph.errors import PatchMorphError
from patchmorph.images.stores import VoxelStore
from patchmorph.io.formats.base import Deferred, ImageFormat, Layout, LibraryVolume, unreadable
from patchmorph.io.formats.chunked_file import FileLevel
from patchmorph.io.formats.mapped import MappedStore, PagesStore
from patchmorph.io.formats.tiff_metadata import stated_spacing
from patchmorph.io.grids import LPS
from patchmorph.spatial.grid import VoxelBox, triple

KIND = "TIFF file"
ENDINGS = (".tif", ".tiff")
MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes: little and big endian, TIFF and BigTIFF."""
UNORIENTED = "TIFF files hold no orientation"
SLICES = "ZQI"
"""Axes that tifffile names for slices: ImageJ's and OME's, and pages of files that name none."""
MAX_EXACT = 2**24
"""Whole numbers up to which float32 is exact."""


def open_tiff(path: Path) -> LibraryVolume:
    """Open a file of pages, or the 2D files of a folder.

    Raises:
        PatchMorphError: a file that tifffile cannot read, or files that differ.
    """
    return _open_folder(path) if path.is_dir() else _open_file(path)


def _open_file(path: Path) -> LibraryVolume:
    with _opened(path) as file:
        axes, shape, dtype = _axes(file, path)
        spacing, why = stated_spacing(file)
        order = _order(axes, shape, path)
        store = _store(file, axes, shape, order, path) if len(shape) == 3 else None
    voxels = Deferred(tuple(shape[k] for k in order), dtype, lambda: _read(path).transpose(order))
    return _volume(path, voxels, spacing, why, store)


def _store(
    file: Any, axes: str, shape: tuple[int, ...], order: tuple[int, ...], path: Path
) -> VoxelStore | None:
    """The voxels of a file without reading them: mapped, or page by page."""
    series = file.series[0]
    if series.dataoffset is not None:
        dtype = np.dtype(series.dtype).newbyteorder(file.byteorder)
        return MappedStore(path, dtype, shape, series.dataoffset, triple(order))
    if axes[-2:] != "YX" or len(series.pages) != shape[0]:
        return None
    dtype = np.dtype(series.dtype).newbyteorder("=")
    return PagesStore(lambda index: _read_page(path, index), triple(shape[::-1]), dtype, path)


def _read_page(path: Path, index: int) -> np.ndarray:
    with _opened(path) as file:
        return file.series[0].pages[index].asarray()


def _open_folder(path: Path) -> LibraryVolume:
    files = tiff_files(path)
    with _opened(files[0]) as file:
        axes, shape, dtype = _axes(file, files[0])
    if axes != "YX" or len(files) < 2:
        raise PatchMorphError(f"TIFF stack must be 2D files, got {len(files)} with axes {axes} in {path}")

    def page(index: int) -> np.ndarray:
        found = _read(files[index])
        if found.shape != shape or found.dtype != dtype:
            got = f"{found.dtype} {found.shape}, not {dtype} {shape}, in {files[index]}"
            raise PatchMorphError(f"TIFF stack must be files of one size and type, got {got}")
        return found

    store = PagesStore(page, (shape[1], shape[0], len(files)), dtype, path)
    voxels = Deferred(store.shape, dtype, lambda: store.read(VoxelBox((0, 0, 0), store.shape)))
    why = "a stack of files states no distance of slices"
    return _volume(path, voxels, None, why, store)


def tiff_files(folder: Path) -> list[Path]:
    """The TIFF files in a folder in natural order: 2 before 10."""
    found = [item for item in folder.iterdir() if item.suffix.lower() in ENDINGS and item.name[0] != "."]
    return sorted(found, key=_natural)


def _natural(path: Path) -> list[int | str]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def write_tiff(frames: Iterable[np.ndarray], layout: Layout, temporary: Path) -> None:
    """Write an ImageJ hyperstack with its voxel sizes in mm; other types become uint16 or float32.

    Raises:
        PatchMorphError: numbers that neither holds exactly.
    """
    import tifffile

    arrays = [_imagej_typed(frame, layout.path) for frame in frames]
    kind = np.result_type(*arrays)
    stack = np.stack([array.astype(kind).T for array in arrays])  # [T, Z, Y, X]
    x, y, z = np.linalg.norm(layout.matrix[:3, :3], axis=0).tolist()
    tifffile.imwrite(
        temporary,
        stack if len(arrays) > 1 else stack[0],
        imagej=True,
        resolution=(1 / x, 1 / y),
        metadata={"spacing": z, "unit": "mm", "axes": "TZYX" if len(arrays) > 1 else "ZYX"},
    )


def _imagej_typed(array: np.ndarray, path: Path) -> np.ndarray:
    if array.dtype in (np.uint8, np.uint16, np.float32):
        return array
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    if low >= 0 and high < 2**16:
        return array.astype(np.uint8 if array.dtype.kind == "b" else np.uint16)
    if max(-low, high) > MAX_EXACT:
        raise PatchMorphError(f"TIFF must hold integers up to {MAX_EXACT}, got {max(-low, high)} for {path}")
    return array.astype(np.float32)


def _volume(
    path: Path,
    voxels: Deferred,
    spacing: tuple[float, float, float] | None,
    why: str,
    store: VoxelStore | None,
) -> LibraryVolume:
    levels = None if store is None else lambda _: [FileLevel(store, np.eye(4))]
    attributes = {
        "kind": KIND,
        "spacing_mm": spacing,
        "without_spacing": why,
        "slices_first": True,
        "levels": levels,
    }
    return LibraryVolume(path, voxels, LPS, unoriented=UNORIENTED, **attributes)


def _axes(file: Any, path: Path) -> tuple[str, tuple[int, ...], np.dtype]:
    """Names and sizes of the axes of the one series in a file, and its number type."""
    if len(file.series) != 1:
        raise PatchMorphError(f"TIFF must hold one image, got {len(file.series)} in {path}")
    series = file.series[0]
    if series.dtype is None or series.dtype.kind not in "iufb":
        raise PatchMorphError(f"image must hold plain numbers, got {series.dtype} in {path}")
    if file.pages[0].compression == 1 and series.nbytes > path.stat().st_size:
        raise PatchMorphError(
            f"image must be whole, got a file that is too short for shape {series.shape}: {path}"
        )
    return series.axes, tuple(series.shape), np.dtype(series.dtype).newbyteorder("=")


def _order(axes: str, shape: tuple[int, ...], path: Path) -> tuple[int, ...]:
    """The axes as columns, rows, slices, then all others (channels, times)."""
    slices = [name for name in SLICES if name in axes][:1]
    if "X" not in axes or "Y" not in axes or not slices:
        raise PatchMorphError(f"image must have slices, rows and columns, got axes {axes} {shape} in {path}")
    first = [axes.index(name) for name in ("X", "Y", *slices)]
    return (*first, *(k for k in range(len(axes)) if k not in first))


def _read(path: Path) -> np.ndarray:
    with _opened(path) as file:
        return file.asarray()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open file; what tifffile logs as an error is one, for it reads on past missing pages.

    Raises:
        PatchMorphError: a damaged file, or one of a compression that is not installed.
    """
    import tifffile

    logger, logged = logging.getLogger("tifffile"), _Errors()
    logger.addHandler(logged)
    propagate, logger.propagate = logger.propagate, False
    try:
        with tifffile.TiffFile(path) as file:
            len(file.pages)  # all are found first: tifffile would follow a chain in a circle for ever
            yield file
        if logged.messages:
            raise unreadable(path, logged.messages[0], KIND)
    except PatchMorphError:
        raise
    except Exception as error:
        remedy = " (pip install imagecodecs)" if "imagecodecs" in str(error) else ""
        reason = str(error).strip("\"'") or type(error).__name__
        raise unreadable(path, reason + remedy, KIND) from None
    finally:
        logger.removeHandler(logged)
        logger.propagate = propagate


class _Errors(logging.Handler):
    """Messages of errors."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.messages.append(record.getMessage())


def _recognises(path: Path, start: bytes) -> bool:
    return bool(tiff_files(path)) if path.is_dir() else start.startswith(MAGICS)


TIFF = ImageFormat("TIFF", ENDINGS, _recognises, open_tiff, write_tiff)
