"""Point files: tables (CSV) and surfaces (GIFTI, VTK, PLY).

Points are in RAS+ mm, LPS+ mm (ITK, 3D Slicer), or voxel indices of an image. Mapping a file keeps its other
content, except surface normals and, in PLY files, all data but colours.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.parsers.expat import ExpatError

import nibabel
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError

from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import whole_file
from patchmorph.io.extras import extra
from patchmorph.io.grids import LPS, matrix_of
from patchmorph.io.images import load_grid
from patchmorph.io.tables import read_rows
from patchmorph.transforms.base import Transform

COLUMNS = ("x", "y", "z")
SURFACES = (".gii", ".vtk", ".vtp", ".ply")
ENDINGS = (".csv", *SURFACES)
POINTSET = "NIFTI_INTENT_POINTSET"
OFFSETS = ("VolGeomC_R", "VolGeomC_A", "VolGeomC_S")
"""GIFTI metadata keys of FreeSurfer's offset from surface coordinates to scanner RAS (mm)."""


@dataclass(frozen=True)
class Frame:
    """Coordinate frame of a point file: the matrix ``[4, 4]`` that maps it to RAS+ mm."""

    to_world: np.ndarray
    name: str = ""

    @classmethod
    def named(cls, name: str) -> "Frame":
        """``ras``, ``lps``, or the path of an image for its voxel indices (from 0).

        Raises:
            PatchMorphError: none of these.
        """
        if name == "ras":
            return cls(np.eye(4), name)
        if name == "lps":
            return cls(LPS, name)
        if not Path(name).is_file():
            raise PatchMorphError(f"frame must be ras, lps or an image (its voxels), got {name}")
        return cls(matrix_of(load_grid(name)))


def map_points(
    source: Path, target: Path, transform: Transform, frame: Frame | None = None, to: Frame | None = None
) -> tuple[int, int]:
    """Write ``source`` to ``target`` with its points mapped by ``transform``.

    Args:
        source: CSV with columns x, y, z, or a surface.
        target: file of the same kind.
        transform: world → world, RAS+ mm.
        frame: of the points; by default that of ``SPACE=`` in the header of a VTK or PLY file, else RAS+ mm.
        to: of the mapped points; by default the same.

    Returns:
        Number of points, and of those that are not mapped: NaN in a table.

    Raises:
        PatchMorphError: no such file, another kind of file, coordinates that are not numbers, or a surface
            with points that are not mapped.
    """
    kind = _kind(source)
    if _kind(target) != kind:
        raise PatchMorphError(f"points must be written as {kind}, as they were read, got {target}")
    if not source.is_file():
        raise PatchMorphError(f"points must be an existing file, got {source}")

    unmapped = 0

    def mapping(points: np.ndarray, default: Frame) -> np.ndarray:
        nonlocal unmapped
        source_frame = frame or default
        world = torch.from_numpy(_apply(source_frame.to_world, points)).float()[None]
        mapped = transform(world)[0].double().numpy() if len(points) else points
        unmapped += int(np.isnan(mapped).any(-1).sum())
        if unmapped and kind in SURFACES:
            raise PatchMorphError(
                f"surface must lie where points are mapped, got {unmapped} that are not in {source}"
            )
        return _apply(np.linalg.inv((to or source_frame).to_world), mapped)

    writers = {".csv": _map_table, ".gii": _map_gifti}
    with whole_file(target) as temporary:
        if kind in writers:
            count = writers[kind](source, temporary, mapping)
        else:
            own = frame or _header_frame(source)
            count = _map_polydata(source, temporary, lambda points: mapping(points, own), (to or own).name)
    return count, unmapped


def _kind(path: Path) -> str:
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise PatchMorphError(f"points must be in a file that ends in {', '.join(ENDINGS)}, got {path}")
    return ending


def _map_table(source: Path, target: Path, mapping: Callable[[np.ndarray, Frame], np.ndarray]) -> int:
    rows = read_rows(source, "points", COLUMNS)
    points = np.empty((len(rows), 3))
    for line, row in enumerate(rows):
        for axis, column in enumerate(COLUMNS):
            try:
                points[line, axis] = float(row[column])
            except ValueError:
                points[line, axis] = np.nan
            if not np.isfinite(points[line, axis]):
                got = f"{row[column]!r} in line {line + 2} of {source}"
                raise PatchMorphError(f"{column} must be a number, got {got}")
    for row, point in zip(rows, mapping(points, Frame.named("ras")), strict=True):
        row.update({column: f"{value:.6f}" for column, value in zip(COLUMNS, point, strict=True)})
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return len(rows)


def _map_gifti(source: Path, target: Path, mapping: Callable[[np.ndarray, Frame], np.ndarray]) -> int:
    """FreeSurfer's offset is added and then set to zero, as in fMRIPrep, so that no tool adds it twice."""
    try:
        image = nibabel.load(source)
        arrays = image.get_arrays_from_intent(POINTSET)  # pyright: ignore[reportAttributeAccessIssue]
    except (ImageFileError, ExpatError, AttributeError, ValueError, OSError) as error:
        raise PatchMorphError(f"surface must be a GIFTI file, got {source}: {error}") from None
    if not arrays:
        raise PatchMorphError(f"surface must have points, got none in {source}")
    for array in arrays:
        offset = [float(array.meta.get(key, 0)) for key in OFFSETS]
        moved = mapping(array.data.astype(np.float64) + offset, Frame.named("ras"))
        array.data = moved.astype(array.data.dtype)
        array.meta.update({key: "0.000000" for key in OFFSETS if key in array.meta})
    nibabel.save(image, target)
    return sum(len(array.data) for array in arrays)


def _header_frame(path: Path) -> Frame:
    """The frame that 3D Slicer writes into the header of a VTK or PLY file; RAS if there is none."""
    with path.open("rb") as file:
        return Frame.named("lps" if b"SPACE=LPS" in file.read(2000) else "ras")


def _map_polydata(source: Path, target: Path, mapping: Callable[[np.ndarray], np.ndarray], frame: str) -> int:
    """Map a surface with VTK; normals, which become invalid, are dropped (PLY: only colours are kept).

    The header of the result names its ``frame``.
    """
    geometry, ply, numpy_support = (
        extra(f"vtkmodules.{name}") for name in ("vtkIOLegacy", "vtkIOPLY", "util.numpy_support")
    )
    xml = extra("vtkmodules.vtkIOXML")
    readers = {
        ".vtk": geometry.vtkPolyDataReader,
        ".vtp": xml.vtkXMLPolyDataReader,
        ".ply": ply.vtkPLYReader,
    }
    writers = {
        ".vtk": geometry.vtkPolyDataWriter,
        ".vtp": xml.vtkXMLPolyDataWriter,
        ".ply": ply.vtkPLYWriter,
    }
    reader, writer = readers[source.suffix.lower()](), writers[source.suffix.lower()]()
    for name in ("ReadAllScalarsOn", "ReadAllVectorsOn", "ReadAllFieldsOn"):
        getattr(reader, name, lambda: None)()
    reader.SetFileName(str(source))
    reader.Update()
    surface = reader.GetOutput()
    if not surface.GetNumberOfPoints():
        raise PatchMorphError(f"surface must be a {source.suffix} file with points, got {source}")
    points = numpy_support.vtk_to_numpy(surface.GetPoints().GetData())
    moved = mapping(points.astype(np.float64)).astype(points.dtype)
    surface.GetPoints().SetData(numpy_support.numpy_to_vtk(moved, deep=True))
    surface.GetPointData().SetNormals(None)
    surface.GetCellData().SetNormals(None)
    space = f"SPACE={frame.upper()}" if frame else ""
    if source.suffix.lower() == ".vtk":
        writer.SetHeader(f"PatchMorph {space}".strip())
        writer.SetFileVersion(42)  # version 4.2, which all readers support
    if source.suffix.lower() == ".ply":
        writer.AddComment(space)
        if surface.GetPointData().HasArray("RGB"):
            writer.SetArrayName("RGB")
    writer.SetFileName(str(target))
    writer.SetInputData(surface)
    if not writer.Write():
        raise OSError(f"VTK could not write {target}")
    return len(points)


def _apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:3, :3].T + matrix[:3, 3]
