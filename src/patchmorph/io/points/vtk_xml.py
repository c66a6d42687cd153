"""XML polydata of VTK (``.vtp``): one piece or several, arrays in text, base64 or appended."""

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from patchmorph.io.points.surfaces import (
    SPACE,
    BrokenSurfaceError,
    Splice,
    Surface,
    check_corners,
    check_offsets,
    count_of,
    float_kind,
    numbers,
    text_of,
)
from patchmorph.io.points.vtk_arrays import KINDS, Encoding
from patchmorph.io.points.xml_nodes import Node, parse

CELLS = ("Verts", "Lines", "Strips", "Polys")


@dataclass(frozen=True)
class _File:
    """A parsed file.

    Attributes:
        raw: its bytes. root: the outermost element.
        appended: where the bytes of appended arrays begin and end. coded: whether they are in base64.
    """

    raw: bytes
    root: Node
    encoding: Encoding
    appended: tuple[int, int]
    coded: bool

    def blob(self, array: Node) -> tuple[int, bytes | memoryview, bool]:
        """Where the bytes of a binary array begin, these and all that follow, and whether they are base64."""
        if array.attributes.get("format") == "appended":
            start = self.appended[0] + count_of(array.attributes["offset"])
            return start, memoryview(self.raw)[start : self.appended[1]], self.coded
        start, end = array.text
        blanks = len(self.raw[start:end]) - len(self.raw[start:end].lstrip())
        return start + blanks, self.raw[start:end].strip(), True

    def span(self, array: Node) -> tuple[int, int]:
        """Where an array's data begin and end."""
        if array.attributes.get("format") == "ascii":
            return array.text
        start, blob, coded = self.blob(array)
        return start, start + self.encoding.measure(blob, coded)[1]

    def kind(self, array: Node) -> np.dtype:
        """Type of an array's numbers."""
        return np.dtype(self.encoding.order + KINDS[array.attributes["type"]])

    def size(self, array: Node) -> int:
        """How many numbers an array has."""
        if array.attributes.get("format") == "ascii":
            return len(self.raw[slice(*array.text)].split())
        _, blob, coded = self.blob(array)
        return self.encoding.measure(blob, coded)[0] // self.kind(array).itemsize

    def values(self, array: Node) -> np.ndarray:
        """An array's numbers."""
        if array.attributes.get("format") == "ascii":
            return numbers(self.raw[slice(*array.text)].split(), self.kind(array))
        _, blob, coded = self.blob(array)
        return np.frombuffer(self.encoding.decode(blob, coded), self.kind(array))

    def pieces(self) -> list[Node]:
        """The parts of the surface."""
        return self.root.all("PolyData")[0].all("Piece")


def parse_xml(raw: bytes) -> Surface:
    """The points of an XML file, those of its pieces one after another.

    Raises:
        ValueError: no whole file of polydata.
    """
    file = _open(raw)
    pieces = [np.empty((0, 3))]
    for piece in file.pieces():
        count = count_of(piece.attributes["NumberOfPoints"])
        points = file.values(_points(piece)).astype(float) if count else np.empty(0)
        if len(points) != 3 * count:
            raise BrokenSurfaceError(f"a piece must have {count} points, got {len(points)} coordinates")
        pieces.append(points.reshape(-1, 3))
        _check_piece(file, piece, count)
    return Surface(np.concatenate(pieces), [_statement(file)], partial(_changes, file))


def _open(raw: bytes) -> _File:
    """Find the elements, and appended arrays, which raw bytes can make unfit for XML."""
    tag = raw.find(b"<AppendedData")
    start, end = 0, 0
    if tag >= 0:
        start, end = raw.index(b"_", raw.index(b">", tag)) + 1, raw.rindex(b"</AppendedData")
    root = parse(raw[:start] + b" " * (end - start) + raw[end:])
    if root.attributes.get("type") != "PolyData" or not root.all("PolyData"):
        raise BrokenSurfaceError(f"its type must be PolyData, got {root.attributes.get('type')}"[:80])
    coded = any(node.attributes.get("encoding") == "base64" for node in root.all("AppendedData"))
    file = _File(raw, root, Encoding.stated(root.attributes), (start, end), coded)
    spans = sorted(file.span(node) for node in root.walk() if node.attributes.get("format") == "appended")
    if any(before[1] > after[0] for before, after in pairwise(spans)):
        raise BrokenSurfaceError("its appended arrays must not overlap")
    return file


def _points(piece: Node) -> Node:
    (points,) = piece.all("Points")[0].all("DataArray")
    return points


def _check_piece(file: _File, piece: Node, points: int) -> None:
    """Check counts and cells against what a piece states."""
    cells = 0
    for name in CELLS:
        count = count_of(piece.attributes.get(f"NumberOf{name}", "0"))
        cells += count
        if count:
            arrays = {array.attributes.get("Name"): array for array in piece.all(name)[0].all("DataArray")}
            offsets, corners = file.values(arrays["offsets"]), file.values(arrays["connectivity"])
            if len(offsets) != count:
                raise BrokenSurfaceError(f"a piece must have {count} {name}, got {len(offsets)}")
            check_offsets(offsets, len(corners))
            check_corners(corners, points)
    for name, count in (("PointData", points), ("CellData", cells)):
        for array in (array for data in piece.all(name) for array in data.all("DataArray")):
            width = count_of(array.attributes.get("NumberOfComponents", "1"))
            if array.attributes["type"] in KINDS and file.size(array) != count * width:
                label = array.attributes.get("Name", "")[:40]
                raise BrokenSurfaceError(
                    f"its array {label} must have {count * width} values, got another number"
                )


def _spaces(file: _File) -> list[Node]:
    """The arrays of field data in which 3D Slicer states the frame."""
    fields = [node for node in file.root.walk() if node.name == "FieldData"]
    return [array for node in fields for array in node.all("Array") if array.attributes.get("Name") == SPACE]


def _statement(file: _File) -> str:
    texts = []
    for array in _spaces(file):
        if array.attributes.get("format") == "ascii":
            codes = bytes(numbers(file.raw[slice(*array.text)].split(), np.uint8).tolist())
        else:
            _, blob, coded = file.blob(array)
            codes = file.encoding.decode(blob, coded)
        texts.append(f"{SPACE}={codes.rstrip(bytes(1)).decode('latin-1')}")
    return " ".join(texts)


def _changes(file: _File, points: Float[np.ndarray, "n 3"], space: str) -> list[Splice]:
    """The points and the space, without normals and without what was measured on the points before."""
    splices, at = [], 0
    for node in file.root.walk():
        node.changes.clear()
    for piece in file.pieces():
        count = count_of(piece.attributes["NumberOfPoints"])
        if count:
            splices += _moved(file, _points(piece), points[at : at + count])
        for data in (*piece.all("PointData"), *piece.all("CellData")):
            splices += _without_normals(file, data)
        at += count
    if _statement(file) != (f"{SPACE}={space}" if space else ""):
        for array in _spaces(file):
            splices += _removed(file, array)
        splices += _stated(file, space)
    _shift_offsets(file, splices)
    return splices + [node.tag(file.raw) for node in file.root.walk() if node.changes]


def _moved(file: _File, array: Node, points: Float[np.ndarray, "n 3"]) -> list[Splice]:
    """Other points, and none of the ranges of the ones before."""
    kind = float_kind(file.kind(array))
    array.changes.update({"type": f"Float{8 * kind.itemsize}", "RangeMin": None, "RangeMax": None})
    ranges = [child.removal() for child in array.all("InformationKey")]
    start, end = file.span(array)
    if array.attributes.get("format") == "ascii":
        texts = text_of(points.astype(kind), kind)
        rows = [b" ".join(texts[k : k + 3]) for k in range(0, len(texts), 3)]
        return [*ranges, Splice(start, end, b"\n" + b"\n".join(rows) + b"\n")]
    _, _, coded = file.blob(array)
    return [*ranges, Splice(start, end, file.encoding.encode(points.astype(kind).tobytes(), coded))]


def _without_normals(file: _File, data: Node) -> list[Splice]:
    name = data.attributes.get("Normals")
    if name is None:
        return []
    data.changes["Normals"] = None
    arrays = [array for array in data.all("DataArray") if array.attributes.get("Name") == name]
    return [splice for array in arrays for splice in _removed(file, array)]


def _removed(file: _File, array: Node) -> list[Splice]:
    appended = array.attributes.get("format") == "appended"
    return [array.removal(), *([Splice(*file.span(array))] if appended else [])]


def _stated(file: _File, space: str) -> list[Splice]:
    """Field data that state the space, as text."""
    if not space:
        return []
    codes = " ".join(str(code) for code in [*space.encode(), 0])
    text = f'\n<Array type="String" Name="{SPACE}" NumberOfTuples="1" format="ascii">{codes}</Array>'
    data = file.root.all("PolyData")[0]
    for fields in data.all("FieldData"):
        if fields.opened < fields.end:
            return [Splice(fields.opened, fields.opened, text.encode())]
    return [Splice(data.opened, data.opened, f"\n<FieldData>{text}\n</FieldData>".encode())]


def _shift_offsets(file: _File, splices: list[Splice]) -> None:
    """Move appended arrays by what the changes add before them."""
    moved = [splice for splice in splices if file.appended[0] <= splice.start < file.appended[1]]
    for node in file.root.walk():
        if node.attributes.get("format") == "appended":
            start = file.blob(node)[0]
            shift = sum(len(s.data) - (s.end - s.start) for s in moved if s.start < start)
            if shift:
                node.changes["offset"] = str(start - file.appended[0] + shift)
