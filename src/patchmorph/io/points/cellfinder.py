"""Cells of cellfinder and of Fiji's Cell Counter (``.xml``): markers, in voxels of the image they lie in.

cellfinder gives cells the type 2 and what it rejected the type 1.
"""

from functools import partial
from pathlib import Path
from xml.parsers import expat

import numpy as np
from jaxtyping import Bool, Float

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.io.points.base import Frame, PointFile
from patchmorph.io.points.surfaces import BrokenSurfaceError, Splice, spliced
from patchmorph.io.points.xml_nodes import Node, parse
from patchmorph.io.tables import as_number

ROOT = "CellCounter_Marker_File"
AXES = ("MarkerX", "MarkerY", "MarkerZ")
CELL, REJECTED = 2.0, (1.0, -1.0)


def read_cells(path: Path) -> PointFile:
    """The markers of all types; other content is kept when they are written, rounded to whole voxels.

    Raises:
        PatchMorphError: no file of markers, none in it, or a coordinate that is no number.
    """
    raw = path.read_bytes()
    try:
        markers = list(_markers(parse(raw), raw))
    except (BrokenSurfaceError, expat.ExpatError, LookupError, ValueError) as error:
        got = f"{path}: {one_line(error)}"
        raise PatchMorphError(f"points must be markers of cellfinder or Cell Counter, got {got}") from None
    if not markers:
        raise PatchMorphError(f"points must have markers, got none in {path}")
    points = np.array([[_number(axis, raw) for axis in axes] for _, axes in markers])
    types = np.array([kind for kind, _ in markers])
    places = [axes for _, axes in markers]

    def frame() -> Frame:
        raise PatchMorphError(f"--frame must name the image that the markers were found in, got none: {path}")

    return PointFile(points, frame, partial(_save, raw, places), is_cell=cells_among(types))


def cells_among(types: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"] | None:
    """Which markers are cells, if their types are those of cellfinder; ``None``: all."""
    if CELL in types and np.isin(types, (CELL, *REJECTED)).all():
        return types == CELL
    return None


def _markers(root: Node, raw: bytes) -> list[tuple[float, list[Node]]]:
    """Type and coordinates of each marker.

    Raises:
        ValueError: other elements.
    """
    if root.name != ROOT:
        raise ValueError(f"its outermost element must be {ROOT}, got {one_line(root.name)}")
    found = []
    for data in root.all("Marker_Data"):
        for group in data.all("Marker_Type"):
            (kind,) = group.all("Type")
            for marker in group.all("Marker"):
                axes = [node for axis in AXES for node in marker.all(axis)]
                if len(axes) != len(AXES):
                    raise ValueError(f"a marker must have {', '.join(AXES)}")
                found.append((_number(kind, raw), axes))
    return found


def _number(node: Node, raw: bytes) -> float:
    text = raw[slice(*node.text)].decode(errors="replace").strip()
    if not np.isfinite(value := as_number(text)):
        raise PatchMorphError(f"{node.name} of a marker must be a number, got {one_line(text)!r}")
    return value


def _save(
    raw: bytes,
    places: list[list[Node]],
    path: Path,
    points: Float[np.ndarray, "n 3"],
    source: Frame,
    target: Frame,
) -> None:
    if target.space is not None:
        raise PatchMorphError(f"markers must be voxels of an image (--output-frame), got {target.name}")
    if not np.isfinite(points).all():
        raise PatchMorphError(f"markers must lie where points are mapped, got some that are not: {path.name}")
    changes = [
        Splice(*node.text, str(round(value)).encode())
        for axes, point in zip(places, points.tolist(), strict=True)
        for node, value in zip(axes, point, strict=True)
    ]
    path.write_bytes(spliced(raw, changes))
