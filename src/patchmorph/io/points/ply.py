"""PLY surfaces: text, and binary files of both byte orders (Turk, *The PLY Polygon File Format*, 1994)."""

import re
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

    def row(self, lengths: list[int]) -> np.dtype:
        """Type of a row whose lists have these lengths."""
        fields, remaining = [], iter(lengths)
        for each in self.properties:
            if each.length_kind:
                fields.append((f"length of {each.name}", self.order + each.length_kind))
                fields.append((each.name, self.order + each.kind, (next(remaining),)))
            else:
                fields.append((each.name, self.order + each.kind))
        return np.dtype(fields)


def parse_ply(raw: bytes) -> Surface:
    """The vertices of a PLY file.

    Raises:
        ValueError: no whole PLY file.
    """
    end = re.search(rb"\nend_header[ \t]*\r?\n", raw)
    if not raw.startswith(b"ply") or end is None:
        raise BrokenSurfaceError("it has no head of a PLY file")
    lines = raw[: end.start()].decode("latin-1").splitlines()
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
    statements = [line for line in lines if line.startswith("comment")]
    return Surface(points, statements, partial(_changes, raw[: end.start()], vertices))


def _elements(lines: list[str]) -> list[_Element]:
    """What the head announces."""
    order, elements = None, []
    for words in (line.split() for line in lines[1:]):
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
    row = element.row([0] * len(element.lists))
    if element.count * row.itemsize > len(raw) - at:
        raise BrokenSurfaceError(f"{element.count} of its element {element.name} do not fit in it")
    if not element.lists:
        return at + element.count * row.itemsize, np.empty(0, np.int64)
    found, remaining, window = [np.empty(0, np.int64)], element.count, 1
    while remaining:  # rows whose lists have the same lengths are read together
        rows = _equal_rows(raw, at, element, min(window, remaining))
        window = 2 * window if len(rows) == window else 1
        at, remaining = at + rows.nbytes, remaining - len(rows)
        found += [rows[each.name].ravel() for each in element.lists if each.name in CORNERS]
    return at, np.concatenate(found).astype(np.int64)


def _equal_rows(raw: bytes, at: int, element: _Element, limit: int) -> np.ndarray:
    """The next rows, at most ``limit``, as many as have lists of the same lengths."""
    lengths: list[int] = []
    for each in element.lists:
        row = element.row([*lengths, *[0] * (len(element.lists) - len(lengths))])
        lengths.append(int(np.frombuffer(raw, row, 1, at)[f"length of {each.name}"][0]))
        if not 0 <= lengths[-1] <= len(raw) - at:
            raise BrokenSurfaceError(f"a list of {lengths[-1]} does not fit in it")
    row = element.row(lengths)
    rows = np.frombuffer(raw, row, max(min(limit, (len(raw) - at) // row.itemsize), 1), at)
    same = np.ones(len(rows), bool)
    for each, length in zip(element.lists, lengths, strict=True):
        same &= rows[f"length of {each.name}"] == length
    return rows if same.all() else rows[: int(np.argmin(same))]


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
            rows = np.frombuffer(self.raw, self.element.row([]), self.element.count, self.start)
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
