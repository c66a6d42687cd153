"""Text headers of NRRD and MetaImage, and whether the file of their voxels can hold them."""

import math
import os
import re
from pathlib import Path

from nibabel.spatialimages import SpatialImage

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.io.formats.base import shape_of, unreadable
from patchmorph.io.streams import MOST_PER_BYTE

MAX_BYTES = 2**20
"""Bytes of a header that are read."""
MAX_DIMENSIONS = 6


def header_lines(path: Path) -> list[str]:
    """Lines of the beginning of a file as text; lines after the header are arbitrary."""
    with path.open("rb") as file:
        lines = file.read(MAX_BYTES).decode("latin-1").split("\n")
    return [line.removesuffix("\r") for line in lines]


def stated_size(volume: SpatialImage) -> int:
    """Bytes of the voxels that a header announces."""
    return math.prod(shape_of(volume)) * volume.get_data_dtype().itemsize


def check_size(path: Path, voxels: Path, volume: SpatialImage, packed: bool) -> None:
    """Check, before memory is taken, that a file can hold the voxels that its header announces.

    Args:
        path: of the header.
        voxels: file of the voxels.
        volume: as it was opened.
        packed: whether they are compressed by gzip or zlib.

    Raises:
        PatchMorphError: no such file, or one that is too short.
    """
    if not os.path.isfile(voxels):  # also of a name that no file can have
        raise PatchMorphError(f"voxels must be in an existing file, got {voxels} (named in {path})")
    if stated_size(volume) > voxels.stat().st_size * (MOST_PER_BYTE if packed else 1):
        what = f"shape {shape_of(volume)} of {volume.get_data_dtype()}"
        raise PatchMorphError(f"image must be whole, got a file that is too short for {what}: {voxels}")


def check_counts(path: Path, kind: str, dimensions: str, sizes: str, channels: str = "1") -> None:
    """Check the numbers that ITK trusts: it crashes where some of them cannot be true.

    Args:
        path: of the header.
        kind: name of the format.
        dimensions: number of axes as the header states it.
        sizes: of the axes, likewise.
        channels: numbers a voxel, likewise.

    Raises:
        PatchMorphError: missing or impossible numbers.
    """
    words = sizes.split()
    counts = [
        int(word) if word.isdecimal() and len(word) < 20 else 0 for word in (dimensions, channels, *words)
    ]
    if not (0 < counts[0] <= MAX_DIMENSIONS and len(words) == counts[0] and min(counts) > 0):
        got = one_line(f"{dimensions or 'no'} dimensions, sizes {sizes or 'missing'}")
        raise unreadable(path, f"its sizes must be positive numbers, one for each dimension, got {got}", kind)


def check_beside(path: Path, field: str) -> None:
    """Check that a header takes no voxels from outside its folder: it may come from elsewhere.

    Args:
        path: of the header.
        field: pattern of what stands before the name of the file of the voxels, or before ``LIST`` and names.

    Raises:
        PatchMorphError: an absolute path, or one that leads upwards.
    """
    lines = header_lines(path)
    for number, line in enumerate(lines):
        if found := re.match(field, line, re.IGNORECASE):
            data = line[found.end() :].strip()
            for name in lines[number + 1 :] if data.startswith("LIST") else [data]:
                if Path(name.strip()).is_absolute() or ".." in Path(name.strip()).parts:
                    got = f"{one_line(name)} in {path}"
                    raise PatchMorphError(f"voxels must be in the folder of their header, got {got}")
            return
