"""Whether ITK's small transform files are whole: ITK reads truncated ones as if nothing were missing."""

import struct
from pathlib import Path

from patchmorph.errors import PatchMorphError

MATLAB_HEADER = struct.Struct("<5i")
"""Type, rows, columns, imaginary flag, and bytes of the name, of a matrix in MATLAB's level 4 files."""
NUMBER_BYTES = {0: 8, 10: 4}
"""By MATLAB's type: double, float."""
NUMBERS, FIXED_NUMBERS = "Parameters:", "FixedParameters:"


def check_whole(path: Path) -> None:
    """Check that a file of affine maps (``.mat``, ``.txt``, ``.tfm``) has its fixed parameters, the centre.

    Raises:
        PatchMorphError: parameters without fixed ones, or a part of a file.
    """
    if path.name.endswith(".mat"):
        counts = _matlab_counts(path)
    elif path.name.endswith((".txt", ".tfm")):
        lines = [line.strip() for line in path.read_text(encoding="latin-1").splitlines()]
        counts = [sum(line.startswith(key) for line in lines) for key in (NUMBERS, FIXED_NUMBERS)]
    else:
        return
    if counts[0] != counts[1]:
        got = f"{counts[0]} and {counts[1]}"
        raise PatchMorphError(f"ITK transform must have as many fixed sets as sets, got {got} in {path}")


def _matlab_counts(path: Path) -> list[int]:
    data, at, matrices = path.read_bytes(), 0, 0
    while at < len(data):
        kind, rows, columns, _, name = MATLAB_HEADER.unpack_from(data, at)
        if kind not in NUMBER_BYTES or min(rows, columns, name) < 0:
            raise PatchMorphError(f"ITK transform must be a MATLAB file of level 4, got another file {path}")
        at += MATLAB_HEADER.size + name + rows * columns * NUMBER_BYTES[kind]
        matrices += 1
    if at > len(data):
        raise PatchMorphError(f"ITK transform must be whole, got {len(data)} of {at} bytes in {path}")
    return [matrices - matrices // 2, matrices // 2]
