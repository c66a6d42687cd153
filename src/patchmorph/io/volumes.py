"""Volumes as nibabel opens them: chosen by content, checked before anything is allocated, read to the end."""

import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast

import nibabel
import numpy as np
from nibabel import imageglobals
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHError
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import HeaderDataError, SpatialImage

from patchmorph.errors import PatchMorphError
from patchmorph.io.streams import DAMAGE, check_rest, check_whole, most_bytes, open_stream

UNREADABLE = (
    *(ImageFileError, HeaderDataError, MGHError, MemoryError, *DAMAGE),
    *(ValueError, TypeError, LookupError, ArithmeticError),
)
"""Exceptions that nibabel raises for broken files."""
HEADER_BYTES = 540
"""Bytes of the longest header whose fields are read here (NIfTI-2)."""
PAIRS = (".hdr", ".img", ".hdr.gz", ".img.gz")
MGH = (".mgz", ".mgh")


def open_volume(path: Path) -> SpatialImage:
    """Open a volume whose voxels are read on access; the stream closes with the volume.

    Raises:
        PatchMorphError: no such file, not an image, or a header that contradicts itself or the file's size.
    """
    stream = open_stream(path)
    try:
        with _quiet_nibabel():
            volume = _volume(path, stream)
            if not isinstance(volume, SpatialImage):
                raise ImageFileError(f"a {type(volume).__name__} is no volume")
            _check_header(volume, path)
    except PatchMorphError:
        stream.close()
        raise
    except UNREADABLE as error:
        stream.close()
        raise unreadable(path, error) from None
    weakref.finalize(volume, stream.close)
    return volume


def read_voxels(volume: SpatialImage) -> np.ndarray:
    """All voxels, rescaled by the header's slope and intercept; a compressed file is checked to its end.

    Raises:
        PatchMorphError: a damaged file.
    """
    array = read_part(volume, (...,))
    check_end(volume)
    return array


def read_part(volume: SpatialImage, index: tuple[Any, ...]) -> np.ndarray:
    """The voxels at an index of integers, slices and ``...``, rescaled by the header's slope and intercept.

    Raises:
        PatchMorphError: a damaged file.
    """
    try:
        with _quiet_nibabel():
            return np.asarray(volume.dataobj[index])
    except UNREADABLE as error:
        raise unreadable(path_of(volume), error) from None


def check_end(volume: SpatialImage) -> None:
    """Read the rest of a compressed file after its voxels, so that its checksum is compared.

    Raises:
        PatchMorphError: a damaged file.
    """
    source = getattr(volume.dataobj, "file_like", None)
    if hasattr(source, "read"):
        check_rest(cast(BufferedIOBase, source), path_of(volume))
    else:
        check_files(volume)


def check_files(volume: SpatialImage) -> None:
    """Read the volume's compressed files from start to end, so that their checksums are compared.

    Raises:
        PatchMorphError: a damaged file.
    """
    for holder in volume.file_map.values():
        if holder.filename and Path(holder.filename).is_file():
            check_whole(Path(holder.filename))


def shape_of(volume: SpatialImage) -> tuple[int, ...]:
    """Sizes of all dimensions."""
    return tuple(int(size) for size in volume.shape)


def path_of(volume: SpatialImage) -> Path:
    """The file that a volume was opened from."""
    return Path(volume.get_filename() or "image")


def header_bytes(volume: SpatialImage) -> bytes:
    """The first bytes of the header's file."""
    holder = volume.file_map.get("header", volume.file_map["image"])
    with open_stream(Path(str(holder.filename))) as stream:
        return stream.read(HEADER_BYTES)


def raw_header(volume: SpatialImage, header: Nifti1Header) -> Nifti1Header:
    """The header as it is in the file: nibabel replaces values that it regards as wrong."""
    return type(header)(header_bytes(volume)[: header.sizeof_hdr], header.endianness, check=False)


def unreadable(path: Path, error: Exception) -> PatchMorphError:
    """The error to raise for an exception of `UNREADABLE`: one line."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return PatchMorphError(f"image must be a readable NIfTI or MGZ volume, got {path}: {reason}")


@contextmanager
def _quiet_nibabel() -> Iterator[None]:
    """Silence what nibabel logs and warns of: headers that it changes, numbers that overflow."""
    before = imageglobals.logger.disabled
    imageglobals.logger.disabled = True
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        imageglobals.logger.disabled = before


def _volume(path: Path, stream: BufferedIOBase) -> object:
    start = stream.read(HEADER_BYTES)
    stream.seek(0)
    kinds = (nibabel.Nifti1Image, nibabel.Nifti2Image)
    kind = next((kind for kind in kinds if kind.header_class.may_contain_header(start)), None)
    if kind is None and path.name.endswith(MGH):
        kind = nibabel.MGHImage
    if kind is None or path.name.endswith(PAIRS):
        stream.close()
        return nibabel.load(path, keep_file_open=True)  # successive frames are read without reopening
    files = kind.make_file_map({"image": stream})
    files["image"].filename = str(path)
    return kind.from_file_map(files)


def _check_header(volume: SpatialImage, path: Path) -> None:
    shape = shape_of(volume)
    if not shape or min(shape) < 1:
        raise PatchMorphError(f"image must have sizes above 0, got shape {shape} in {path}")
    source = volume.dataobj
    if not isinstance(source, ArrayProxy):
        return
    needed = source.offset + int(np.prod(shape, dtype=object)) * source.dtype.itemsize
    limit = most_bytes(Path(str(volume.file_map["image"].filename)))
    if limit is not None and needed > limit:
        raise PatchMorphError(
            f"image must be whole, got a file that is too short for shape {shape} of {source.dtype}: {path}"
        )
    if isinstance(volume.header, Nifti1Header):
        _check_nifti(volume, volume.header, source.offset, path)


def _check_nifti(volume: SpatialImage, header: Nifti1Header, offset: int, path: Path) -> None:
    """Check what nibabel replaces without a word: an offset inside the header, and voxel sizes of 0."""
    least = header.sizeof_hdr if "header" not in volume.file_map else 0
    if offset < least:
        raise PatchMorphError(f"voxels must start at byte {least} or later, got {offset} in {path}")
    sizes = [float(size) for size in raw_header(volume, header)["pixdim"][1:4]]
    if not int(header["sform_code"]) and not (np.isfinite(sizes).all() and np.all(sizes)):
        got = ", ".join(f"{size:g}" for size in sizes)
        raise PatchMorphError(f"voxel sizes must be above 0 and finite, got {got} in {path}")
