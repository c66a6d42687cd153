"""A legacy VTK file that is read from front to back: lines, and numbers and texts of both forms."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from patchmorph.io.points.surfaces import BrokenSurfaceError, Splice, end_of_tokens, numbers

KINDS = {
    "char": "i1",
    "signed_char": "i1",
    "unsigned_char": "u1",
    "short": "i2",
    "unsigned_short": "u2",
    "int": "i4",
    "unsigned_int": "u4",
    "long": "i8",
    "unsigned_long": "u8",
    "vtkidtype": "i4",
    "vtktypeint64": "i8",
    "vtktypeuint64": "u8",
    "float": "f4",
    "double": "f8",
}


class PointSection(NamedTuple):
    """The points: where the line before them and they themselves begin and end, their number and type."""

    head: int
    start: int
    end: int
    number: int
    kind: str


@dataclass
class LegacyFile:
    """A file that is read from front to back.

    Attributes:
        at: where the next byte is. head: where the last line with words begins.
        binary: whether numbers are. modern: whether cells are stored as offsets and corners.
        tuples: of the attributes that follow. cells: found so far. corners: of the cells. points: if found.
        dropped: bytes that are left out of a mapped file. fields: where field data state the space.
    """

    raw: bytes
    at: int = 0
    head: int = 0
    binary: bool = False
    modern: bool = False
    tuples: int = 0
    cells: int = 0
    corners: list[np.ndarray] = field(default_factory=list)
    points: PointSection | None = None
    dropped: list[Splice] = field(default_factory=list)
    fields: list[tuple[int, int]] = field(default_factory=list)

    def line(self) -> bytes:
        """The next line, without its end."""
        end = self.raw.find(b"\n", self.at)
        start, self.at = self.at, len(self.raw) if end < 0 else end + 1
        return self.raw[start : self.at].rstrip(b"\r\n")

    def words(self) -> list[str]:
        """Words of the next line that has some; none at the end of the file."""
        while self.at < len(self.raw):
            self.head = self.at
            if words := self.line().split():
                return [word.decode("latin-1") for word in words]
        return []

    def skip(self, count: int, kind: str) -> int:
        """Pass ``count`` values; where they begin."""
        start = self.at
        if kind.lower() in ("string", "utf8_string"):
            self._skip_strings(count)
        elif not self.binary:
            self.at = end_of_tokens(self.raw, start, count)
        else:
            size = -(-count // 8) if kind == "bit" else count * np.dtype(KINDS[kind.lower()]).itemsize
            if size > len(self.raw) - start:
                raise BrokenSurfaceError(f"{count} values of {kind} do not fit in it")
            self.at += size
        return start

    def _skip_strings(self, count: int) -> None:
        for _ in range(count):
            if self.at >= len(self.raw):
                raise BrokenSurfaceError(f"{count} texts are announced, and fewer are there")
            if self.binary:  # two bits give the size of the length
                size = 1 << (3 - (self.raw[self.at] >> 6))
                length = int.from_bytes(self.raw[self.at : self.at + size], "big") & (
                    (1 << (8 * size - 2)) - 1
                )
                self.at += size + length
            else:
                self.line()

    def values(self, count: int, kind: str) -> np.ndarray:
        """The next ``count`` numbers."""
        start = self.skip(count, kind)
        number = KINDS[kind.lower()]
        if self.binary:
            return np.frombuffer(self.raw, f">{number}", count, start)
        return numbers(self.raw[start : self.at].split(), number)

    def skip_metadata(self) -> None:
        """Pass metadata, which end at an empty line."""
        while self.line().strip():
            if self.at >= len(self.raw):
                raise BrokenSurfaceError("its metadata have no end")
