"""ITK's transforms as MATLAB files of level 4 (``.mat``), as ANTs' ``0GenericAffine.mat``.

Each transform is two matrices of one column: one named after its kind, and its fixed parameters, named
``fixed`` (MATLAB, "MAT-File Format", level 4).
"""

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from patchmorph.errors import PatchMorphError
from patchmorph.io.transforms.itk_records import Record

HEADER = struct.Struct("<5i")
"""Type, rows, columns, imaginary flag, and bytes of the name with its end."""
TYPES = {0: "<f8", 10: "<f4"}
"""Numbers by MATLAB's type: double, float."""
FIXED = "fixed"


class Matrix(NamedTuple):
    """A named matrix."""

    name: str
    values: np.ndarray


def write_matlab(record: Record, path: Path) -> None:
    """Write one transform, in double precision."""
    data = b""
    for name, values in ((record.kind, record.parameters), (FIXED, record.fixed)):
        text = name.encode("ascii") + b"\0"
        data += HEADER.pack(0, len(values), 1, 0, len(text)) + text + values.astype("<f8").tobytes()
    path.write_bytes(data)


def read_matlab(path: Path) -> list[Record]:
    """Read all transforms of a file.

    Raises:
        PatchMorphError: another file, a part of one, or a transform without fixed parameters.
    """
    data, at = path.read_bytes(), 0
    matrices: list[Matrix] = []
    while at < len(data):
        matrix, at = _matrix(data, at, path)
        matrices.append(matrix)
    kinds, fixed = matrices[::2], matrices[1::2]
    if len(kinds) != len(fixed) or any(each.name != FIXED for each in fixed):
        names = " ".join(each.name for each in matrices)
        raise PatchMorphError(f"ITK transform must be a matrix and its fixed one, got {names} in {path}")
    return [Record(kind.name, kind.values, own.values) for kind, own in zip(kinds, fixed, strict=True)]


def _matrix(data: bytes, at: int, path: Path) -> tuple[Matrix, int]:
    """The matrix that begins at a byte, and where it ends."""
    kind, rows, columns, imaginary, name = HEADER.unpack_from(data, at)
    if kind not in TYPES or min(rows, columns, name) < 0 or imaginary:
        raise PatchMorphError(f"ITK transform must be a MATLAB file of level 4, got another file {path}")
    dtype, start = np.dtype(TYPES[kind]), at + HEADER.size + name
    end = start + rows * columns * dtype.itemsize
    if end > len(data):
        raise PatchMorphError(f"ITK transform must be whole, got {len(data)} of {end} bytes in {path}")
    text = data[at + HEADER.size : start].rstrip(b"\0").decode("latin-1")
    return Matrix(text, np.frombuffer(data, dtype, rows * columns, start)), end
