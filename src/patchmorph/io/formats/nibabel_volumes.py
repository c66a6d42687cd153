"""NIfTI, MGH and Analyze by nibabel; headers are checked before anything is allocated."""

import warnings
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

import nibabel
import numpy as np
from nibabel import imageglobals
from nibabel.analyze import AnalyzeImage
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHError
from nibabel.nifti1 import Nifti1Header
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError, SpatialImage

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.io.formats.base import ImageFormat, Layout, shape_of, unreadable
from patchmorph.io.headers import mgh_header, nifti_header
from patchmorph.io.streams import DAMAGE, HEADER_BYTES, most_bytes, open_stream

UNREADABLE = (
    *(ImageFileError, HeaderDataError, MGHError, MemoryError, *DAMAGE),
    *(ValueError, TypeError, LookupError, ArithmeticError),
)
"""Exceptions that nibabel raises for broken files."""
PAIRS = (".hdr", ".img", ".hdr.gz", ".img.gz")
NIFTI, MGH = (".nii", ".nii.gz"), (".mgz", ".mgh")
KIND = "NIfTI or MGZ volume"


def open_nibabel(path: Path) -> SpatialImage:
    """Open a volume whose voxels are read on access; the stream closes with the volume.

    Raises:
        PatchMorphError: not an image, or a header that contradicts itself or the file's size.
    """
    stream = open_stream(path)
    try:
        with quiet_nibabel():
            volume = _volume(path, stream)
            if not isinstance(volume, AnalyzeImage | nibabel.MGHImage):  # NIfTI is derived from Analyze
                raise ImageFileError(f"a {type(volume).__name__} is none")
            _check_header(volume, path)
    except PatchMorphError:
        stream.close()
        raise
    except UNREADABLE as error:
        stream.close()
        raise unreadable(path, error, KIND) from None
    weakref.finalize(volume, stream.close)
    return volume


def header_bytes(volume: SpatialImage) -> bytes:
    """The first bytes of the header's file, or of the header of an image that is in memory."""
    holder = volume.file_map.get("header", volume.file_map["image"])
    if holder.filename is None or not Path(holder.filename).is_file():
        return volume.header.binaryblock  # pyright: ignore[reportAttributeAccessIssue]
    with open_stream(Path(holder.filename)) as stream:
        return stream.read(HEADER_BYTES)


def raw_header(volume: SpatialImage, header: Nifti1Header) -> Nifti1Header:
    """The header as it is in the file: nibabel replaces values that it regards as wrong."""
    return type(header)(header_bytes(volume)[: header.sizeof_hdr], header.endianness, check=False)


def stated_bytes(volume: SpatialImage) -> int | None:
    """Where the voxels end in their file, by the header; ``None`` where nibabel does not read them there."""
    source = volume.dataobj
    if not isinstance(source, ArrayProxy):
        return None
    return source.offset + int(np.prod(shape_of(volume), dtype=object)) * source.dtype.itemsize


@contextmanager
def quiet_nibabel() -> Iterator[None]:
    """Silence what nibabel logs and warns of: headers that it changes, numbers that overflow."""
    before = imageglobals.logger.disabled
    imageglobals.logger.disabled = True
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        imageglobals.logger.disabled = before


def write_nifti(frames: Iterable[np.ndarray], layout: Layout, temporary: Path) -> None:
    """Write a NIfTI file frame by frame, so that memory does not grow with their number.

    Raises:
        PatchMorphError: sizes beyond those of the format.
    """
    try:
        header = nifti_header(layout.source, layout.dtype, layout.shape, layout.matrix, layout.code)
    except (HeaderDataError, ValueError) as error:
        raise _unfit(layout, error) from None
    with ImageOpener(str(temporary), "wb") as file:
        header.write_to(file)
        _write_frames(file, frames, header.get_data_dtype(), layout.path)


def write_mgh(frames: Iterable[np.ndarray], layout: Layout, temporary: Path) -> None:
    """Write an MGH file frame by frame, of the number type that holds those of the frames.

    Raises:
        PatchMorphError: sizes or numbers beyond those of the format.
    """
    try:
        header = mgh_header(layout.dtype, layout.shape, layout.matrix)
    except (HeaderDataError, ValueError) as error:
        raise _unfit(layout, error) from None
    with ImageOpener(str(temporary), "wb") as file:
        header.writehdr_to(file)
        file.seek(header.get_data_offset())
        _write_frames(file, frames, header.get_data_dtype(), layout.path)
        header.writeftr_to(file)


def _write_frames(file: ImageOpener, frames: Iterable[np.ndarray], dtype: np.dtype, path: Path) -> None:
    for frame in frames:
        converted = frame.astype(dtype)
        if dtype.kind in "iu" and not np.array_equal(converted, frame):
            raise PatchMorphError(f"image must hold numbers of {dtype}, got larger ones for {path}")
        file.write(converted.tobytes(order="F"))


def _unfit(layout: Layout, error: Exception) -> PatchMorphError:
    got = f"got shape {layout.shape} for {layout.path}: {one_line(error)}"
    return PatchMorphError(f"image must fit its format, {got}")


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
    needed, limit = stated_bytes(volume), most_bytes(Path(str(volume.file_map["image"].filename)))
    if limit is not None and needed is not None and needed > limit:
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


def _otherwise(path: Path, start: bytes) -> bool:
    """nibabel is asked of every file that no other format recognises; these formats share no signature."""
    return True


NIFTI_FORMAT = ImageFormat("NIfTI", NIFTI, _otherwise, open_nibabel, write_nifti)
MGH_FORMAT = ImageFormat("MGH", MGH, _otherwise, open_nibabel, write_mgh)
