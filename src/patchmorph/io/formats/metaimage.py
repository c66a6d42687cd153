"""MetaImage (``.mha``, ``.mhd`` with its voxels in another file), read and written by ITK.

Format: https://itk.org/Wiki/ITK/MetaIO/Documentation. ITK reads a header without a matrix as the identity,
ignores the unit, and does not compare the checksum of packed voxels.
"""

import re
import zlib
from pathlib import Path

from patchmorph.errors import PatchMorphError
from patchmorph.io.formats.base import ImageFormat, LibraryVolume, shape_of, unreadable
from patchmorph.io.formats.headers_text import check_size, header_lines
from patchmorph.io.formats.itk_volumes import check_itk, open_itk, write_itk
from patchmorph.io.streams import CHUNK

MATRICES = ("TransformMatrix", "Rotation", "Orientation")
"""Names of the matrix: present ones and those of old files."""
SIZES = ("ElementSpacing", "ElementSize")
LAST, LOCAL = "ElementDataFile", "LOCAL"
KIND = "MetaImage"
MAX_DIMENSIONS = 6


def open_metaimage(path: Path) -> LibraryVolume:
    """Open a MetaImage.

    Raises:
        PatchMorphError: a file that ITK cannot read, one that is too short for its header, or damaged voxels.
    """
    fields = header_fields(path)
    _check_counts(fields, path)
    packed = fields.get("CompressedData", "").lower() == "true"
    data, unit = fields.get(LAST, LOCAL), fields.get("DistanceUnits", "mm")
    one, local = not re.search(r"%|^LIST", data), data.upper() == LOCAL
    voxels = path if local else path.parent / data
    check = (lambda: _check_packed(voxels, local)) if packed and one else None
    volume = open_itk(path, KIND, "MetaImageIO", unit, check, packed=packed)
    if not any(name in fields for name in MATRICES):
        volume.unoriented = "its header has no TransformMatrix"
    if not any(name in fields for name in SIZES):
        volume.spacing_mm, volume.without_spacing = None, "its header has no ElementSpacing"
    if one:
        check_size(path, voxels, shape_of(volume), volume.get_data_dtype(), packed)
    return volume


def header_fields(path: Path) -> dict[str, str]:
    """Fields of the header by their names."""
    fields = {}
    for line in header_lines(path):
        name, _, value = (part.strip() for part in line.partition("="))
        fields[name] = value
        if name == LAST:
            break
    return fields


def _check_counts(fields: dict[str, str], path: Path) -> None:
    """Check the numbers that ITK trusts: it crashes where some of them cannot be true.

    Raises:
        PatchMorphError: missing or impossible numbers.
    """
    try:
        dimensions, channels = (int(fields.get(name, "1")) for name in ("NDims", "ElementNumberOfChannels"))
        sizes = [int(size) for size in fields["DimSize"].split()]
    except (KeyError, ValueError):
        dimensions, channels, sizes = 0, 0, []
    if not (0 < dimensions <= MAX_DIMENSIONS and len(sizes) == dimensions and min(*sizes, channels) > 0):
        got = ", ".join(f"{name} {fields.get(name, 'missing')}" for name in ("NDims", "DimSize"))
        raise unreadable(path, f"its sizes must be positive numbers, one for each dimension ({got})", KIND)


def _check_packed(path: Path, local: bool) -> None:
    """Unpack a zlib stream to its end, where its checksum is.

    Raises:
        PatchMorphError: damaged data or a missing end.
    """
    unpacking = zlib.decompressobj()
    try:
        with path.open("rb") as file:
            while local and not file.readline().startswith(LAST.encode()):
                pass
            while not unpacking.eof and (chunk := file.read(CHUNK)):
                unpacking.decompress(chunk)
    except zlib.error as error:
        raise PatchMorphError(f"compressed file must be intact, got {path}: {error}") from None
    if not unpacking.eof:
        raise PatchMorphError(f"compressed file must be intact, got {path}: it ends before its checksum")


def _recognises(path: Path, start: bytes) -> bool:
    return b"NDims" in start and re.match(rb"\s*\w+ *=", start) is not None


METAIMAGE = ImageFormat(KIND, (".mha", ".mhd"), _recognises, open_metaimage, write_itk, check_itk)
