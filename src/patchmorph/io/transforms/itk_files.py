"""Whether ITK's small transform files are whole: ITK reads truncated ones as if nothing were missing."""

import struct
from pathlib import Path

from patchmorph.errors import PatchMorphError

MATLAB_HEADER = struct.Struct("<5i")
"""Type, rows, columns, imaginary flag, and bytes of the name, of a matrix in MATLAB's level 4 files."""
NUMBER_BYTES = {0: 8, 10: 4}
"""By MATLAB's type: double, float."""
NUMBERS, FIXED_NUMBERS = "Parameters:", "FixedParameters:"


def check_whole(path: Path, expected: int) -> None:
    """Check that a file of affine maps (``.mat``, ``.txt``, ``.tfm``) has all its parameters and no more.

    Args:
        path: a file that ITK has read.
        expected: number of parameters of its transforms, without the fixed ones.

    Raises:
        PatchMorphError: it does not.
    """
    if path.name.endswith(".mat"):
        counts, fixed = _matlab_counts(path)
    elif path.name.endswith((".txt", ".tfm")):
        counts, fixed = _text_counts(path)
    else:
        return
    if sum(counts) != expected or len(counts) != len(fixed):
        raise PatchMorphError(
            f"ITK transform must have {expected} parameters and as many fixed sets as sets, got "
            f"{sum(counts)} in {len(counts)} sets and {len(fixed)} fixed sets in {path}"
        )


def _text_counts(path: Path) -> tuple[list[int], list[int]]:
    lines = [line.strip() for line in path.read_text(encoding="latin-1").splitlines()]
    found = ([line for line in lines if line.startswith(key)] for key in (NUMBERS, FIXED_NUMBERS))
    counts, fixed = ([len(line.split()) - 1 for line in part] for part in found)
    return counts, fixed


def _matlab_counts(path: Path) -> tuple[list[int], list[int]]:
    data, at, counts = path.read_bytes(), 0, []
    while at < len(data):
        kind, rows, columns, _, name = MATLAB_HEADER.unpack_from(data, at)
        at += MATLAB_HEADER.size + name + rows * columns * NUMBER_BYTES[kind]
        if at > len(data) or min(rows, columns, name) < 0:
            raise PatchMorphError(f"ITK transform must be whole, got a part of one in {path}")
        counts.append(rows * columns)
    return counts[::2], counts[1::2]
