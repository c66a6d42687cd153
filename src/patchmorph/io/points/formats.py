"""Point files by their ending: which module reads each, and mapping a file into one of the same kind."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import whole_file
from patchmorph.io.points.base import Frame, PointFile, apply_matrix
from patchmorph.io.points.cellfinder import read_cells
from patchmorph.io.points.fiducials import read_fiducials
from patchmorph.io.points.freesurfer import is_surface, read_surface
from patchmorph.io.points.gifti import read_gifti
from patchmorph.io.points.markups import read_markups
from patchmorph.io.points.polydata import read_polydata
from patchmorph.io.points.tables import read_point_table
from patchmorph.transforms.base import Transform

READERS: dict[str, Callable[[Path], PointFile]] = {
    ".csv": read_point_table,
    ".tsv": read_point_table,
    ".fcsv": read_fiducials,
    ".json": read_markups,
    ".gii": read_gifti,
    ".vtk": read_polydata,
    ".vtp": read_polydata,
    ".ply": read_polydata,
    ".xml": read_cells,
}
"""By ending; any other file may be a binary surface of FreeSurfer, whose names end as they like."""


@dataclass(frozen=True)
class MappedPoints:
    """What `map_points` did.

    Attributes:
        count: points.
        unmapped: points whose place is not finite.
        source: frame of the points.
        target: frame of the mapped points.
    """

    count: int
    unmapped: int
    source: Frame
    target: Frame

    def __str__(self) -> str:
        parts = [f"{self.count} points, frame: {self.source}"]
        if self.target.name != self.source.name:
            parts.append(f"written as {self.target.name}")
        if self.unmapped:
            parts.append(f"{self.unmapped} points are not mapped: their coordinates are nan")
        return "; ".join(parts)


def map_points(
    source: Path, target: Path, transform: Transform, frame: Frame | None = None, to: Frame | None = None
) -> MappedPoints:
    """Write ``source`` to ``target`` with its points mapped by ``transform``.

    Args:
        source: table, markups or surface.
        target: file of the same kind.
        transform: world → world, RAS+ mm.
        frame: of the points; by default the one that the file states, or that its format implies.
        to: of the mapped points; by default the same, but scanner RAS for FreeSurfer's surfaces.

    Raises:
        PatchMorphError: no such file, another kind of file, no frame, coordinates that are not finite, or a
            surface that the transform does not map as a whole.
    """
    file = _opened(source, target)
    given = frame or file.frame()
    result = to or frame or file.result or given
    world = torch.from_numpy(apply_matrix(given.to_world, file.points)).float()
    mapped = transform(world[None])[0].double().numpy() if len(world) else world.double().numpy()
    unmapped = int((~np.isfinite(mapped)).any(axis=1).sum())
    if unmapped and file.is_surface:
        raise PatchMorphError(
            f"surface must lie where points are mapped, got {unmapped} that are not in {source}"
        )
    with whole_file(target) as temporary:
        file.save(temporary, apply_matrix(np.linalg.inv(result.to_world), mapped), given, result)
    return MappedPoints(len(mapped), unmapped, given, result)


def read_points(source: Path) -> PointFile:
    """The points of a file.

    Raises:
        PatchMorphError: no such file, another kind of file, or coordinates that are not finite.
    """
    return _opened(source, source)


def _opened(source: Path, target: Path) -> PointFile:
    if not source.is_file():
        raise PatchMorphError(f"points must be an existing file, got {source}")
    file = _reader(source, target)(source)
    if not np.isfinite(file.points).all():
        count = int((~np.isfinite(file.points)).any(axis=1).sum())
        raise PatchMorphError(f"points must be finite, got {count} that are not in {source}")
    return file


def _reader(source: Path, target: Path) -> Callable[[Path], PointFile]:
    """What reads ``source``.

    Raises:
        PatchMorphError: nothing does, or ``target`` would be another kind of file.
    """
    kind, other = (path.suffix.lower() if path.suffix.lower() in READERS else "" for path in (source, target))
    if not kind and not is_surface(source):
        endings = ", ".join(READERS)
        raise PatchMorphError(
            f"points must be in a file that ends in {endings}, or a FreeSurfer surface, got {source}"
        )
    if other != kind:
        form = kind or "a FreeSurfer surface"
        raise PatchMorphError(f"points must be written as {form}, as they were read, got {target}")
    return READERS[kind] if kind else read_surface
