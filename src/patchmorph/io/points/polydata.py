"""Surfaces of VTK and PLY, a module a format; a mapped file keeps all bytes but those of its points.

3D Slicer states the frame as ``SPACE=LPS`` or ``SPACE=RAS``: in the title of a ``.vtk`` file, a comment of a
``.ply`` file, and an array of field data of a ``.vtp`` file (its ``vtkMRMLModelStorageNode``). So do the
files that are written here.
"""

import binascii
import lzma
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from xml.parsers.expat import ExpatError

import numpy as np
from jaxtyping import Float

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.io.points.base import LPS_FRAME, RAS, Frame, PointFile
from patchmorph.io.points.ply import parse_ply
from patchmorph.io.points.surfaces import SPACE, Surface, spliced
from patchmorph.io.points.vtk_legacy import parse_legacy
from patchmorph.io.points.vtk_xml import parse_xml

PARSERS: dict[str, Callable[[bytes], Surface]] = {".vtk": parse_legacy, ".vtp": parse_xml, ".ply": parse_ply}
UNREADABLE = (
    ValueError,  # of which the errors of the parsers are
    LookupError,
    OverflowError,
    ExpatError,
    binascii.Error,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)


def read_polydata(path: Path) -> PointFile:
    """The points of a surface; all else in the file is kept, but normals, which become invalid.

    Raises:
        PatchMorphError: the file is truncated, its counts or cells are wrong, or it has no points.
    """
    raw = path.read_bytes()
    try:
        surface = PARSERS[path.suffix.lower()](raw)
    except UNREADABLE as error:
        what = f"surface must be a whole {path.suffix} file, got {path}: {_reason(error)}"
        raise PatchMorphError(what) from None
    if not len(surface.points):
        raise PatchMorphError(f"surface must be a whole {path.suffix} file with points, got none in {path}")
    frame = partial(_frame, surface.statements)
    return PointFile(surface.points, frame, partial(_save, raw, surface), is_surface=True)


def _reason(error: Exception) -> str:
    """Why a file could not be parsed."""
    if isinstance(error, IndexError):
        return "it ends early"
    return one_line(f"it has no {error}, or one that is not known" if isinstance(error, KeyError) else error)


def _frame(statements: list[str]) -> Frame:
    for space in (LPS_FRAME, RAS):
        if any(f"{SPACE}={space.space}" in text for text in statements):
            return space.because(f"by its head, {SPACE}={space.space}")
    return RAS.because("by convention; --frame changes it")


def _save(
    raw: bytes, surface: Surface, path: Path, points: Float[np.ndarray, "n 3"], source: Frame, target: Frame
) -> None:
    path.write_bytes(spliced(raw, surface.changes(points, target.space or "")))
