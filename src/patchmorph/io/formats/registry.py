"""The registry of image formats: a module a format; the content of a file decides which one it is."""

import os
from io import BufferedIOBase
from pathlib import Path

from patchmorph.errors import PatchMorphError
from patchmorph.io.formats.base import ImageFormat, Write
from patchmorph.io.formats.chosen import chosen
from patchmorph.io.formats.dicom import DICOM, split_series
from patchmorph.io.formats.imaris import IMARIS
from patchmorph.io.formats.metaimage import METAIMAGE
from patchmorph.io.formats.nibabel_volumes import MGH_FORMAT, NIFTI_FORMAT
from patchmorph.io.formats.nrrd import NRRD
from patchmorph.io.formats.ome_zarr import OME_ZARR
from patchmorph.io.formats.ome_zarr_writing import check_writer, write_ome_zarr
from patchmorph.io.formats.tiff import TIFF
from patchmorph.io.streams import DAMAGE, HEADER_BYTES, open_stream

WRITTEN_ZARR = OME_ZARR._replace(write=write_ome_zarr, check_writer=check_writer)
FORMATS: tuple[ImageFormat, ...] = (
    WRITTEN_ZARR,
    IMARIS,
    NRRD,
    METAIMAGE,
    TIFF,
    DICOM,
    NIFTI_FORMAT,
    MGH_FORMAT,
)
"""The first that recognises a file reads it."""
ENDINGS = tuple(
    ending for form in (NIFTI_FORMAT, MGH_FORMAT, NRRD, METAIMAGE, TIFF, OME_ZARR) for ending in form.endings
)
"""Endings of names of image files that can be written."""


def format_of(path: Path) -> ImageFormat:
    """The format of an image, by its content.

    Raises:
        PatchMorphError: no such file or folder, or an empty one.
    """
    start = b""
    if not is_folder(path):
        with open_stream(path if path.is_file() else chosen(path).path) as stream:
            start = _start(stream)
    return next(form for form in FORMATS if form.recognises(path, start))


def _start(stream: BufferedIOBase) -> bytes:
    """The first bytes; none of a damaged stream, whose damage the reader reports."""
    try:
        return stream.read(HEADER_BYTES)
    except DAMAGE:
        return b""


def is_folder(path: Path) -> bool:
    """Whether a path names a folder, a series or a channel in one, or a URL."""
    place = chosen(path)
    return place.is_url or os.path.isdir(place.path) or os.path.isdir(split_series(path)[0])


def is_image(path: Path) -> bool:
    """Whether a path names something that could be an image: a file, a folder, or a series in one."""
    return os.path.isfile(chosen(path).path) or is_folder(path)  # also of a name that no file can have


def writer_of(path: Path) -> Write:
    """What writes an image file of this name.

    Raises:
        PatchMorphError: an ending of no format that can be written, or a library that is not installed.
    """
    for form in FORMATS:
        if form.write is not None and path.name.endswith(form.endings):
            form.check_writer(path)
            return form.write
    raise PatchMorphError(f"image file must end in {', '.join(ENDINGS)}, got {path}")
