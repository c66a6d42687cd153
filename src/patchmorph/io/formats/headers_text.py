"""Text headers of NRRD and MetaImage, and whether the file of their voxels can hold them."""

from pathlib import Path

import numpy as np

from patchmorph.errors import PatchMorphError
from patchmorph.io.streams import MOST_PER_BYTE

MAX_BYTES = 2**20
"""Bytes of a header that are read."""


def header_lines(path: Path) -> list[str]:
    """Lines of the beginning of a file as text; lines after the header are arbitrary."""
    with path.open("rb") as file:
        return file.read(MAX_BYTES).decode("latin-1").splitlines()


def check_size(path: Path, voxels: Path, shape: tuple[int, ...], dtype: np.dtype, packed: bool) -> None:
    """Check, before memory is taken, that a file can hold the voxels that its header announces.

    Args:
        path: of the header.
        voxels: file of the voxels.
        shape: of the array.
        dtype: of the array.
        packed: whether they are compressed by gzip or zlib.

    Raises:
        PatchMorphError: no such file, or one that is too short.
    """
    if not voxels.is_file():
        raise PatchMorphError(f"voxels must be in an existing file, got {voxels} (named in {path})")
    needed = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if needed > voxels.stat().st_size * (MOST_PER_BYTE if packed else 1):
        raise PatchMorphError(
            f"image must be whole, got a file that is too short for shape {shape} of {dtype}: {voxels}"
        )
