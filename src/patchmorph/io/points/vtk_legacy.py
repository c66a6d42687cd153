"""Legacy VTK polydata (``.vtk``), text and binary, versions 1 to 5.1.

Layout: *VTK File Formats* (docs.vtk.org), and for strings, bits and metadata, which it leaves out, files that
VTK 9 wrote. Binary numbers are big-endian.
"""

import re
from functools import partial

import numpy as np
from jaxtyping import Float

from patchmorph.io.points.legacy_file import KINDS, LegacyFile, PointSection
from patchmorph.io.points.surfaces import (
    SPACE,
    BrokenSurfaceError,
    Splice,
    Surface,
    check_corners,
    check_offsets,
    count_of,
    float_kind,
    text_of,
)

CELLS = ("VERTICES", "LINES", "POLYGONS", "TRIANGLE_STRIPS")
COMPONENTS = {
    "NORMALS": 3,
    "VECTORS": 3,
    "TENSORS": 9,
    "TENSORS6": 6,
    "GLOBAL_IDS": 1,
    "PEDIGREE_IDS": 1,
    "EDGE_FLAGS": 1,
}
"""Values of a tuple, of attributes that do not state them."""
MAX_TITLE = 255


def parse_legacy(raw: bytes) -> Surface:
    """The points of a legacy VTK file.

    Raises:
        ValueError: no whole file of polydata.
    """
    file = LegacyFile(raw)
    version = re.match(r"# vtk DataFile Version (\d+)\.\d+", file.line().decode("latin-1"))
    if version is None:
        raise BrokenSurfaceError("it has no head of a VTK file")
    file.modern = int(version[1]) >= 5
    start, title = file.at, file.line()
    end = start + len(title)
    file.binary = {"ASCII": False, "BINARY": True}[" ".join(file.words()).upper()]
    while words := file.words():
        _section(file, words)
    if file.points is None:
        raise BrokenSurfaceError("it has no points")
    file.at = file.points.start
    points = file.values(3 * file.points.number, file.points.kind).astype(float).reshape(-1, 3)
    for corners in file.corners:
        check_corners(corners, len(points))
    spaces = [f"{SPACE}={_field_text(file, *span)}" for span in file.fields]
    statements = [title.decode("latin-1"), *spaces]
    return Surface(points, statements, partial(_changes, file, Splice(start, end, title)))


def _section(file: LegacyFile, words: list[str]) -> None:
    """Pass one section; its keyword and what follows it in the line are ``words``."""
    start = file.head
    match [words[0].upper(), *words[1:]]:
        case ["DATASET", kind] if kind.upper() == "POLYDATA":
            pass
        case ["METADATA"]:
            file.skip_metadata()
        case ["FIELD", _, count]:
            for _ in range(count_of(count)):
                _skip_field(file)
        case ["POINTS", count, kind] if file.points is None:
            first = file.skip(3 * count_of(count), kind)
            file.points = PointSection(start, first, file.at, count_of(count), kind)
            _drop_metadata(file, file.at)
        case [keyword, count, size] if keyword in CELLS:
            (_read_offsets if file.modern else _read_cells)(file, count_of(count), count_of(size))
        case ["POINT_DATA", count] if file.points and count_of(count) == file.points.number:
            file.tuples = count_of(count)
        case ["CELL_DATA", count] if count_of(count) == file.cells:
            file.tuples = count_of(count)
        case _:
            _skip_attribute(file, words, start)


def _skip_attribute(file: LegacyFile, words: list[str], start: int) -> None:
    match [words[0].upper(), *words[1:]]:
        case ["SCALARS", _, kind, *count] if len(count) < 2:
            if [word.upper() for word in file.words()[:1]] != ["LOOKUP_TABLE"]:
                raise BrokenSurfaceError("its scalars have no line LOOKUP_TABLE")
            file.skip(count_of(*count or ["1"]) * file.tuples, kind)
        case ["COLOR_SCALARS", _, count]:
            file.skip(count_of(count) * file.tuples, "unsigned_char")
        case ["LOOKUP_TABLE", _, count]:
            file.skip(4 * count_of(count), "unsigned_char")
        case ["TEXTURE_COORDINATES", _, count, kind]:
            file.skip(count_of(count) * file.tuples, kind)
        case [keyword, _, kind] if keyword in COMPONENTS:
            file.skip(COMPONENTS[keyword] * file.tuples, kind)
            if keyword == "NORMALS":
                _drop_metadata(file, start)
        case _:
            raise BrokenSurfaceError(f"it has the line {' '.join(words)!r}"[:80])


def _read_cells(file: LegacyFile, count: int, size: int) -> None:
    """Cells before version 5: each a number of corners, and these."""
    values, at, first = file.values(size, "int"), 0, []
    for _ in range(count if count <= size else size + 1):
        first.append(at)
        at += 1 + max(int(values[at]), 0)
    if at != size:
        raise BrokenSurfaceError(f"{count} cells must have {size} values, got another number")
    file.cells += count
    file.corners.append(np.delete(values, first))


def _read_offsets(file: LegacyFile, count: int, size: int) -> None:
    """Cells since version 5: offsets, one more than cells, and corners."""
    for keyword, length in (("OFFSETS", count), ("CONNECTIVITY", size)):
        words = file.words()
        if len(words) != 2 or words[0].upper() != keyword:
            raise BrokenSurfaceError(f"its cells have no line {keyword}")
        values = file.values(length, words[1])
        check_offsets(values, size) if keyword == "OFFSETS" else file.corners.append(values)
    file.cells += max(count - 1, 0)


def _skip_field(file: LegacyFile) -> None:
    words = file.words()
    if words and words[0].upper() == "METADATA":
        file.skip_metadata()
        words = file.words()
    if len(words) != 4:
        raise BrokenSurfaceError(f"its field data have the line {' '.join(words)!r}"[:80])
    name, components, tuples, kind = words
    start = file.skip(count_of(components) * count_of(tuples), kind)
    if name == SPACE and kind.lower() == "string" and count_of(tuples) == 1:
        file.fields.append((start, file.at))


def _drop_metadata(file: LegacyFile, start: int) -> None:
    """Leave bytes from ``start`` on, and metadata that follow, out of a mapped file: they hold a range."""
    metadata = re.compile(rb"\s*METADATA[ \t]*\r?\n").match(file.raw, file.at)
    if metadata:
        file.at = metadata.end()
        file.skip_metadata()
    if start < file.at:
        file.dropped.append(Splice(start, file.at, b"\n"))


def _field_text(file: LegacyFile, start: int, end: int) -> str:
    return file.raw[start + file.binary : end].decode("latin-1").strip()


def _changes(file: LegacyFile, title: Splice, points: Float[np.ndarray, "n 3"], space: str) -> list[Splice]:
    """The title, which states the space as 3D Slicer does, and the points."""
    assert file.points, "the file was parsed"
    kind = float_kind(np.dtype(f">{KINDS[file.points.kind.lower()]}"))
    data = points.astype(kind).tobytes()
    if not file.binary:
        texts = text_of(points.astype(kind), kind)
        data = b"\n".join(b" ".join(texts[k : k + 3]) for k in range(0, len(texts), 3)) + b"\n"
    head = f"POINTS {file.points.number} {'float' if kind.itemsize == 4 else 'double'}\n".encode()
    plain = re.sub(rb"\s*SPACE=\w*", b"", title.data)
    stated = plain[: MAX_TITLE - 10] + f" {SPACE}={space}".encode() if space else plain
    fields = [Splice(start, end, _field_bytes(file, space, start, end)) for start, end in file.fields]
    return [
        Splice(title.start, title.end, stated),
        Splice(file.points.head, file.points.end, head + data),
        *fields,
        *file.dropped,
    ]


def _field_bytes(file: LegacyFile, space: str, start: int, end: int) -> bytes:
    if file.binary:
        return bytes([0xC0 | len(space)]) + space.encode()
    return file.raw[start:end].replace(_field_text(file, start, end).encode("latin-1"), space.encode(), 1)
