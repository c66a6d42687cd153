"""Truncated surfaces: VTK reads such ``.vtk`` and ``.ply`` files without an error, or ends the process."""

import re
from pathlib import Path

from patchmorph.errors import PatchMorphError

BYTES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32", "uint32", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}
"""Sizes of PLY's types."""
MIN_CORNERS = 3
"""Entries of the shortest list of a PLY file: a triangle."""


def check_complete(path: Path) -> None:
    """Check that a file holds as many values as its head announces.

    Raises:
        PatchMorphError: it is shorter, or its head is none.
    """
    raw = path.read_bytes()
    needed, found = {".ply": _ply, ".vtk": _vtk}.get(path.suffix.lower(), lambda raw: (0, 0))(raw)
    if found < needed:
        raise PatchMorphError(f"surface must be a whole {path.suffix} file, got a truncated one in {path}")


def _vtk(raw: bytes) -> tuple[int, int]:
    """Coordinates announced and found in legacy VTK text; binary files are checked by VTK."""
    head = re.search(rb"\nPOINTS\s+(\d+)\s+\w+\s", raw, re.IGNORECASE)
    if head is None or not re.search(rb"\nASCII\s", raw[:1000], re.IGNORECASE):
        return 0, 0
    needed = 3 * int(head[1])
    numbers = raw[head.end() :].split(None, needed)[:needed]
    return needed, sum(
        number[-1:].isdigit() or number.lower().endswith((b"nan", b"inf", b".")) for number in numbers
    )


def _ply(raw: bytes) -> tuple[int, int]:
    """Bytes of the body of a PLY file, lines of its text: at least needed, and found."""
    head, end, body = raw.partition(b"end_header")
    body = body.partition(b"\n")[2]
    elements = re.split(r"\nelement\s+\S+\s+(\d+)", head.decode("latin-1"))[1:]
    if not end or not elements:
        return 1, 0
    counts, properties = [int(count) for count in elements[::2]], elements[1::2]
    if b"\nformat ascii" in head:
        return sum(counts), sum(bool(line.strip()) for line in body.split(b"\n"))
    return sum(n * _row_bytes(text) for n, text in zip(counts, properties, strict=True)), len(body)


def _row_bytes(properties: str) -> int:
    size = 0
    for words in (line.split() for line in properties.splitlines()):
        if words[:2] == ["property", "list"]:
            size += BYTES.get(words[2], 1) + MIN_CORNERS * BYTES.get(words[3], 1)
        elif words[:1] == ["property"]:
            size += BYTES.get(words[1], 1)
    return size
