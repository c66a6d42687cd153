"""What surface files share: bytes that are kept, numbers in text, checks of counts and corners."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Float, Integer

SPACE = "SPACE"
"""Under this name 3D Slicer states the frame of a surface (its ``vtkMRMLModelStorageNode``)."""
TOKEN = re.compile(rb"\S+")
DIGITS = {4: 9, 8: 17}
"""Significant digits from which a float of so many bytes is read back exactly."""


class BrokenSurfaceError(ValueError):
    """A file that is not what its head states; the text gives the reason."""


@dataclass(frozen=True)
class Splice:
    """Bytes ``start`` to ``end`` of a file are replaced by ``data``."""

    start: int
    end: int
    data: bytes = b""


@dataclass(frozen=True)
class Surface:
    """A surface as it is stored.

    Attributes:
        points: coordinates. statements: texts of the file in which 3D Slicer states the frame.
        changes: ``changes(points, space)``, what makes the file one with these points, which states the
            space ``RAS`` or ``LPS``, or none if it is empty. Normals, which become invalid, are removed.
    """

    points: Float[np.ndarray, "n 3"]
    statements: list[str]
    changes: Callable[[np.ndarray, str], list[Splice]]


def spliced(raw: bytes, splices: Iterable[Splice]) -> bytes:
    """A file with some of its bytes replaced; a splice inside of a longer one has no effect."""
    parts, at = [], 0
    for splice in sorted(splices, key=lambda splice: (splice.start, -splice.end)):
        if splice.start >= at:
            parts += [raw[at : splice.start], splice.data]
            at = splice.end
    return b"".join([*parts, raw[at:]])


def end_of_tokens(raw: bytes, start: int, count: int) -> int:
    """Where the last of ``count`` words from ``start`` on ends.

    Raises:
        BrokenSurfaceError: there are fewer.
    """
    if 2 * count - 1 > len(raw) - start:
        raise BrokenSurfaceError(f"{count} values do not fit in it")
    last = next(islice(TOKEN.finditer(raw, start), max(count - 1, 0), None), None) if count else None
    if count and last is None:
        raise BrokenSurfaceError(f"{count} values are announced, and fewer are there")
    return last.end() if last else start


def count_of(text: str | bytes) -> int:
    """A count in a head.

    Raises:
        BrokenSurfaceError: it is none.
    """
    if not text.isdigit():
        raise BrokenSurfaceError(f"count must be a whole number, got {text!r}"[:80])
    return int(text)


def numbers(texts: list[bytes], kind: str | type | np.dtype) -> np.ndarray:
    """Numbers from their texts; integers may not have decimals."""
    return np.array(texts, dtype="S").astype(kind) if texts else np.empty(0, kind)


def text_of(values: Float[np.ndarray, "..."], kind: np.dtype) -> list[bytes]:
    """Texts of numbers, from which those of the type are read back exactly."""
    form = f"%.{DIGITS.get(kind.itemsize, 17)}g"
    return [(form % value).encode() for value in values.ravel().tolist()]


def float_kind(kind: np.dtype) -> np.dtype:
    """The type of mapped coordinates: that of the file, or 32-bit floats where it is of integers."""
    return kind if kind.kind == "f" else np.dtype(np.float32).newbyteorder(kind.byteorder)


def check_corners(corners: Integer[np.ndarray, " m"], points: int) -> None:
    """Check that cells name points.

    Raises:
        BrokenSurfaceError: an index is negative, or no less than the number of points.
    """
    if len(corners) and not 0 <= int(corners.min()) <= int(corners.max()) < points:
        outside = corners.max() if corners.min() >= 0 else corners.min()
        raise BrokenSurfaceError(f"its cells must use points 0 to {points - 1}, got {outside}")


def check_offsets(offsets: Integer[np.ndarray, " m"], corners: int) -> None:
    """Check where cells begin and end in the list of their corners.

    Raises:
        BrokenSurfaceError: offsets fall, or do not end at the number of corners.
    """
    if len(offsets) and (np.any(np.diff(offsets) < 0) or offsets[0] < 0 or offsets[-1] != corners):
        raise BrokenSurfaceError(f"offsets of its cells must rise to {corners}, got others")
