"""MetaImage (``.mha``, ``.mhd`` with its voxels in another file), read and written by ITK.

Format: https://itk.org/Wiki/ITK/MetaIO/Documentation. ITK reads a header without a matrix as the identity,
ignores the unit, and does not compare the checksum of packed voxels.
"""

import re
import zlib
from pathlib import Path

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.io.formats.base import ImageFormat, LibraryVolume, unreadable
from patchmorph.io.formats.headers_text import (
    check_beside,
    check_counts,
    check_size,
    header_lines,
    stated_size,
)
from patchmorph.io.formats.itk_volumes import check_itk, open_itk, write_itk
from patchmorph.io.streams import CHUNK

MATRICES = ("TransformMatrix", "Rotation", "Orientation")
"""Names of the matrix: present ones and those of old files."""
SIZES = ("ElementSpacing", "ElementSize")
COUNTS = ("NDims", "DimSize", "ElementNumberOfChannels")
"""Names of the numbers by which ITK takes memory, unchecked: of two of a name it reads the first."""
FIELD = re.compile(
    r"\s*|[ \t]*(?P<name>[!-9;<>-~][ -9;<>-~]*?)[ \t]*=(?P<value>[^\x00-\x08\x0a-\x1f]*)", re.ASCII
)
LAST, LOCAL = "ElementDataFile", "LOCAL"
PATTERN = re.compile(r"[^%\s]*%\d{0,2}d[^%\s]*(\s+\d{1,9}){0,3}")
"""Name of a file a slice, and the first number, the last and the step; C's ``printf`` fills it in."""
KIND = "MetaImage"


def open_metaimage(path: Path) -> LibraryVolume:
    """Open a MetaImage.

    Raises:
        PatchMorphError: a file that ITK cannot read, one that is too short for its header, or damaged voxels.
    """
    fields = header_fields(path)
    channels = fields.get("ElementNumberOfChannels", "1")
    check_counts(path, KIND, fields.get("NDims", ""), fields.get("DimSize", ""), channels)
    check_beside(path, rf"\s*{LAST}\s*=")
    packed = fields.get("CompressedData", "").lower() == "true"
    data, unit = fields.get(LAST, LOCAL), fields.get("DistanceUnits", "mm")
    if "%" in data and not PATTERN.fullmatch(data):
        raise unreadable(path, f"names of its files must have one %d, got {one_line(data)}", KIND)
    one, local = not re.search(r"%|^LIST", data), data.upper() == LOCAL
    voxels = path if local else path.parent / data
    check = (lambda: _check_packed(voxels, local, stated_size(volume))) if packed and one else None
    volume = open_itk(path, KIND, "MetaImageIO", unit, check, packed=packed)
    if not any(name in fields for name in MATRICES):
        volume.unoriented = "its header has no TransformMatrix"
    if not any(name in fields for name in SIZES):
        volume.spacing_mm, volume.without_spacing = None, "its header has no ElementSpacing"
    if one:
        check_size(path, voxels, volume, packed)
    return volume


def header_fields(path: Path) -> dict[str, str]:
    """Fields of the header by their names.

    Raises:
        PatchMorphError: lines that ITK may read as something else, two fields of a name that counts.
    """
    fields: dict[str, str] = {}
    for line in header_lines(path):
        found = FIELD.fullmatch(line)
        if found is None:
            got = one_line(line[:80])
            raise unreadable(path, f"its header must be lines of a name, = and a value, got {got}", KIND)
        name, value = found["name"] or "", found["value"] or ""
        if (name in COUNTS and name in fields) or re.search(rf"({'|'.join(COUNTS)})\s*[=:]", value):
            raise unreadable(path, f"its header must state {', '.join(COUNTS)} once each, got two", KIND)
        fields[name] = value.strip()
        if name == LAST:
            break
    return fields


def _check_packed(path: Path, local: bool, most: int) -> None:
    """Unpack a zlib stream to its end, where its checksum is.

    Raises:
        PatchMorphError: damaged data, a missing end, or more bytes than the header states.
    """
    unpacking, count = zlib.decompressobj(), 0
    try:
        with path.open("rb") as file:
            while local and not file.readline().startswith(LAST.encode()):
                pass
            while not unpacking.eof and (chunk := unpacking.unconsumed_tail or file.read(CHUNK)):
                count += len(unpacking.decompress(chunk, CHUNK))
                if count > most:
                    got = f"over {count} in {path}"
                    raise PatchMorphError(f"file must hold {most} bytes, unpacked, got {got}")
    except zlib.error as error:
        raise PatchMorphError(f"compressed file must be intact, got {path}: {error}") from None
    if not unpacking.eof:
        raise PatchMorphError(f"compressed file must be intact, got {path}: it ends before its checksum")


def _recognises(path: Path, start: bytes) -> bool:
    return b"NDims" in start and re.match(rb"\s*\w+ *=", start) is not None


METAIMAGE = ImageFormat(KIND, (".mha", ".mhd"), _recognises, open_metaimage, write_itk, check_itk)
