"""PLY surfaces: text, and binary files of both byte orders (Turk, *The PLY Polygon File Format*, 1994)."""

import re
import struct
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Integer

from patchmorph.io.points.surfaces import (
    SPACE,
    BrokenSurfaceError,
    Splice,
    Surface,
    check_corners,
    count_of,
    end_of_tokens,
    float_kind,
    numbers,
    text_of,
)

KINDS = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
    **{f"{sign}int{8 * size}": f"{sign or 'i'}{size}" for sign in ("", "u") for size in (1, 2, 4)},
    "float32": "f4",
    "float64": "f8",
}
ORDERS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
NORMALS = ("nx", "ny", "nz")
CORNERS = ("vertex_indices", "vertex_index")


@dataclass(frozen=True)
class _Property:
    name: str
    kind: str
    length_kind: str = ""  # of a list, the type of its length


@dataclass(frozen=True)
class _Element:
    name: str
    count: int
    properties: list[_Property]
    order: str  # of bytes; empty: text

    @property
    def lists(self) -> list[_Property]:
        return [each for each in self.properties if each.length_kind]

    def length(self, each: _Property) -> struct.Struct | None:
        """How the length of a list is stored; ``None``: no list."""
        if not each.length_kind:
            return None
        return struct.Struct(self.order + np.dtype(each.length_kind).char)

    @property
    def row(self) -> np.dtype:
        """Type of a row whose lists are empty."""
        return np.dtype([(p.name, self.order + (p.length_kind or p.kind)) for p in self.properties])


def parse_ply(raw: bytes) -> Surface:
    """The vertices of a PLY file.

    Raises:
        ValueError: no whole PLY file.
    """
    end = re.search(rb"\nend_header[ \t]*\r?\n", raw)
    if not raw.startswith(b"ply") or end is None:
        raise BrokenSurfaceError("it has no head of a PLY file")
    lines = raw[: end.start()].split(b"\n")
    elements = _elements(lines)
    at, vertices, corners = end.end(), None, np.empty(0, np.int64)
    for element in elements:
        start, (at, found) = at, (_text_end if not element.order else _binary_end)(raw, at, element)
        if element.name == "vertex":
            vertices = _Vertices(element, raw, start, at)
        elif element.name == "face":
            corners = found
    if vertices is None:
        raise BrokenSurfaceError("it has no vertices")
    points = vertices.points()
    check_corners(corners, len(points))
    statements = [line.decode("latin-1") for line in lines if line.startswith(b"comment")]
    return Surface(points, statements, partial(_changes, raw[: end.start()], vertices))


def _elements(lines: list[bytes]) -> list[_Element]:
    """What the head announces."""
    order, elements = None, []
    for words in ([word.decode("latin-1") for word in line.split()] for line in lines[1:]):
        match words:
            case ["format", form, "1.0"]:
                order = ORDERS[form]
            case ["element", name, count] if order is not None:
                elements.append(_Element(name, count_of(count), [], order))
            case ["property", "list", length, kind, name] if elements:
                elements[-1].properties.append(_Property(name, KINDS[kind], KINDS[length]))
            case ["property", kind, name] if elements:
                elements[-1].properties.append(_Property(name, KINDS[kind]))
            case [] | ["comment" | "obj_info", *_]:
                pass
            case _:
                raise BrokenSurfaceError(f"its head has the line {' '.join(words)!r}"[:90])
    return elements


def _text_end(raw: bytes, at: int, element: _Element) -> tuple[int, Integer[np.ndarray, " m"]]:
    """Where an element of a text file ends, and the corners in its lists."""
    if not element.lists:
        return end_of_tokens(raw, at, element.count * len(element.properties)), np.empty(0, np.int64)
    words, corners, used = raw[at:].split(), [], 0
    for _ in range(element.count):
        for each in element.properties:
            length = count_of(words[used]) if each.length_kind else 1
            if each.name in CORNERS:
                corners += words[used + 1 : used + 1 + length]
            used += length + bool(each.length_kind)
    return end_of_tokens(raw, at, used), numbers(corners, np.int64)


def _binary_end(raw: bytes, at: int, element: _Element) -> tuple[int, Integer[np.ndarray, " m"]]:
    """Where an element of a binary file ends, and the corners in its lists."""
    row = element.row
    if element.count * row.itemsize > len(raw) - at:
        raise BrokenSurfaceError(f"{element.count} of its element {element.name} do not fit in it")
    if not element.lists:
        return at + element.count * row.itemsize, np.empty(0, np.int64)
    lists, kind = [], "i4"
    steps = [(each, element.length(each), np.dtype(each.kind).itemsize) for each in element.properties]
    for _ in range(element.count):
        for each, length, size in steps:
            if length is None:
                at += size
                continue
            (count,) = length.unpack_from(raw, at)
            start, at = at + length.size, at + length.size + count * size
            if count < 0 or at > len(raw):
                raise BrokenSurfaceError(f"a list of {count} does not fit in it")
            if each.name in CORNERS:
                lists.append(raw[start:at])
                kind = each.kind
    return at, np.frombuffer(b"".join(lists), element.order + kind).astype(np.int64)


@dataclass(frozen=True)
class _Vertices:
    """The element of vertices: bytes ``start`` to ``end`` of the file."""

    element: _Element
    raw: bytes
    start: int
    end: int

    def __post_init__(self) -> None:
        names = [each.name for each in self.element.properties]
        if self.element.lists or not {*"xyz"} <= {*names} or len({*names}) < len(names):
            raise BrokenSurfaceError("its vertices must have x, y and z, and no lists")

    def kind(self, axis: str) -> np.dtype:
        """Type of a coordinate."""
        return next(np.dtype(each.kind) for each in self.element.properties if each.name == axis)

    def columns(self) -> dict[str, np.ndarray]:
        """Values of a property by its name; texts, as they stand in a text file."""
        names = [each.name for each in self.element.properties]
        if self.element.order:
            rows = np.frombuffer(self.raw, self.element.row, self.element.count, self.start)
            return {name: rows[name] for name in names}
        words = np.array(self.raw[self.start : self.end].split(), dtype="S").reshape(-1, len(names))
        return {name: words[:, k] for k, name in enumerate(names)}

    def points(self) -> Float[np.ndarray, "n 3"]:
        """Coordinates as they are stored."""
        columns = self.columns()
        return np.stack([columns[axis].astype(float) for axis in "xyz"], axis=1)

    def moved(self, points: Float[np.ndarray, "n 3"]) -> bytes:
        """The element's bytes with other coordinates, without normals."""
        columns = {name: column for name, column in self.columns().items() if name not in NORMALS}
        for k, axis in enumerate("xyz"):
            kind = float_kind(self.kind(axis))
            values = points[:, k].astype(kind)
            columns[axis] = values if self.element.order else np.array(text_of(values, kind), dtype="S")
        if not self.element.order:
            return b"\n".join(b" ".join(row) for row in zip(*columns.values(), strict=True)) + b"\n"
        kept = [each for each in self.element.properties if each.name in columns]
        types = [(p.name, self.element.order + self._kept_kind(p)) for p in kept]
        rows = np.empty(len(points), types)
        for name, column in columns.items():
            rows[name] = column
        return rows.tobytes()

    def _kept_kind(self, each: _Property) -> str:
        return float_kind(np.dtype(each.kind)).str[1:] if each.name in "xyz" else each.kind


def _changes(head: bytes, vertices: _Vertices, points: Float[np.ndarray, "n 3"], space: str) -> list[Splice]:
    """The vertices, and the lines of the head on their properties and on the space."""
    lines, inside = [], False
    for line in head.split(b"\n"):
        words = line.split()
        if words[:1] == [b"comment"] and SPACE.encode() + b"=" in line:
            continue
        inside = words[1] == b"vertex" if words[:1] == [b"element"] else inside
        if inside and words[:1] == [b"property"]:
            name = words[2].decode("latin-1")
            if name in NORMALS:
                continue
            if name in "xyz" and vertices.kind(name).kind != "f":
                line = line.replace(words[1], b"float", 1)
        lines.append(line)
        if space and words[:1] == [b"format"]:
            lines.append(f"comment {SPACE}={space}".encode() + b"\r" * line.endswith(b"\r"))
    return [
        Splice(0, len(head), b"\n".join(lines)),
        Splice(vertices.start, vertices.end, vertices.moved(points)),
    ]
