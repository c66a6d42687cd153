"""NRRD (``.nrrd``, ``.nhdr`` with its voxels in another file), read and written by ITK.

Format: http://teem.sourceforge.net/nrrd/format.html. ITK reads a ``space`` that names no sides, or none, as
if it were LPS, and ignores the units; both stand in the text of the header.
"""

import gzip
import re
from pathlib import Path

from patchmorph.io.formats.base import ImageFormat, LibraryVolume
from patchmorph.io.formats.headers_text import (
    check_beside,
    check_counts,
    check_size,
    header_lines,
    stated_size,
)
from patchmorph.io.formats.itk_volumes import check_itk, open_itk, write_itk
from patchmorph.io.streams import check_rest

MAGIC = b"NRRD000"
KIND = "NRRD file"
SIDES = ("left", "right")
"""Words of a ``space`` that names the sides of a body; short forms are three capitals."""
PACKED = ("gzip", "gz")
SKIPS = {"byte skip", "byteskip", "line skip", "lineskip"}
"""Fields of data that start within a file."""
PLAIN = ("raw", *PACKED)
"""Encodings by which the length of the file bounds the number of voxels."""


def open_nrrd(path: Path) -> LibraryVolume:
    """Open a NRRD file.

    Raises:
        PatchMorphError: a file that ITK cannot read, or one that is too short for its header.
    """
    fields = header_fields(path)
    check_counts(path, KIND, fields.get("dimension", ""), fields.get("sizes", ""))
    check_beside(path, "data ?file:")
    encoding = fields.get("encoding", "raw").lower()
    units = re.findall(r'"([^"]*)"', fields.get("space units", ""))
    unit, why = units[0] if units else "mm", _why(fields)
    data = fields.get("data file", fields.get("datafile", path.name))
    one, voxels = not re.search(r"%|^LIST", data), path.parent / data
    checked = encoding in PACKED and one and not SKIPS & fields.keys()
    check = (lambda: _check_packed(voxels, voxels == path, stated_size(volume))) if checked else None
    volume = open_itk(path, KIND, "NrrdImageIO", unit, check, packed=encoding != "raw", unoriented=why)
    if encoding in PLAIN and one:
        check_size(path, voxels, volume, encoding in PACKED)
    return volume


def header_fields(path: Path) -> dict[str, str]:
    """Fields of the header by their names in small letters."""
    fields = {}
    for line in header_lines(path):
        if not line:
            break
        name, colon, value = line.partition(": ")
        if colon and not line.startswith("#"):
            fields[name.lower()] = value.strip()
    return fields


def _check_packed(path: Path, local: bool, most: int) -> None:
    """Unpack a gzip stream to its end, where its checksum is; teem does not compare it.

    Raises:
        PatchMorphError: damaged data, a missing end, or more bytes than the header states.
    """
    with path.open("rb") as file:
        while local and file.readline().strip():
            pass
        with gzip.GzipFile(fileobj=file) as stream:
            check_rest(stream, path, most)


def _why(fields: dict[str, str]) -> str:
    """Why the orientation is unknown."""
    space = fields.get("space", "")
    named = space.lower().startswith(SIDES) or re.fullmatch(r"[LR][AP][SI]T?", space)
    if not named:
        return f"its space is {space or 'not stated'}"
    return "" if "space directions" in fields else "it has no space directions"


NRRD = ImageFormat(
    "NRRD", (".nrrd", ".nhdr"), lambda path, start: start.startswith(MAGIC), open_nrrd, write_itk, check_itk
)
