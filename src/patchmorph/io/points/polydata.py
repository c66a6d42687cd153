"""Surfaces of VTK: ``.vtk``, ``.vtp`` and ``.ply``, by VTK itself.

3D Slicer states the frame as ``SPACE=LPS`` or ``SPACE=RAS``: in the title of a ``.vtk`` file, a comment of a
``.ply`` file, and an array of field data of a ``.vtp`` file (its ``vtkMRMLModelStorageNode``). So do the
files that are written here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from patchmorph.errors import PatchMorphError
from patchmorph.io.extras import extra
from patchmorph.io.points.base import LPS_FRAME, RAS, Frame, PointFile
from patchmorph.io.points.truncation import check_complete

SPACE = "SPACE"
MODULES = {
    ".vtk": ("vtkIOLegacy", "PolyData"),
    ".vtp": ("vtkIOXML", "XMLPolyData"),
    ".ply": ("vtkIOPLY", "PLY"),
}
"""Module of VTK, and the name of its reader and writer."""


def read_polydata(path: Path) -> PointFile:
    """The points of a surface; normals, which become invalid, are dropped (PLY: all data but colours).

    Raises:
        PatchMorphError: VTK is not installed, or no surface with points.
    """
    reader = _tool(path, "Reader")
    for name in ("ReadAllScalarsOn", "ReadAllVectorsOn", "ReadAllFieldsOn"):
        getattr(reader, name, lambda: None)()
    check_complete(path)
    reader.SetFileName(str(path))
    with _messages() as messages:
        reader.Update()
    surface = reader.GetOutput()
    if any(messages) or not surface.GetNumberOfPoints():
        raise PatchMorphError(f"surface must be a whole {path.suffix} file with points, got {path}")
    points = _numpy().vtk_to_numpy(surface.GetPoints().GetData())
    frame = partial(_frame, _statements(reader, surface))
    return PointFile(points.astype(float), frame, partial(_save, surface, points.dtype), is_surface=True)


def _tool(path: Path, kind: str) -> Any:
    module, name = MODULES[path.suffix.lower()]
    return getattr(extra(f"vtkmodules.{module}"), f"vtk{name}{kind}")()


def _numpy() -> Any:
    return extra("vtkmodules.util.numpy_support")


@contextmanager
def _messages() -> Iterator[list[str]]:
    """What VTK reports; it would print it."""
    core, texts = extra("vtkmodules.vtkCommonCore"), []
    window, shown = core.vtkStringOutputWindow(), core.vtkOutputWindow.GetInstance()
    core.vtkOutputWindow.SetInstance(window)
    core.vtkLogger.SetStderrVerbosity(core.vtkLogger.VERBOSITY_OFF)
    try:
        yield texts
    finally:
        texts.extend(window.GetOutput().split("\n"))
        core.vtkOutputWindow.SetInstance(shown)
        core.vtkLogger.SetStderrVerbosity(core.vtkLogger.VERBOSITY_INFO)


def _frame(statements: list[str]) -> Frame:
    for space in (LPS_FRAME, RAS):
        if any(f"{SPACE}={space.space}" in text for text in statements):
            return space.because(f"by its head, {SPACE}={space.space}")
    return RAS.because("by convention; --frame changes it")


def _statements(reader: Any, surface: Any) -> list[str]:
    """Texts of the file in which 3D Slicer would state the frame."""
    title = [reader.GetHeader() or ""] if hasattr(reader, "GetHeader") else []
    comments = reader.GetComments() if hasattr(reader, "GetComments") else None
    array = surface.GetFieldData().GetAbstractArray(SPACE)
    texts = [comments.GetValue(k) for k in range(comments.GetNumberOfValues())] if comments else []
    fields = [f"{SPACE}={array.GetVariantValue(0).ToString()}"] if array and array.GetNumberOfValues() else []
    return title + texts + fields


def _save(
    surface: Any, kind: np.dtype, path: Path, points: Float[np.ndarray, "n 3"], source: Frame, target: Frame
) -> None:
    surface.GetPoints().SetData(_numpy().numpy_to_vtk(points.astype(kind), deep=True))
    surface.GetPointData().SetNormals(None)
    surface.GetCellData().SetNormals(None)
    writer = _tool(path, "Writer")
    statement = f"{SPACE}={target.space}" if target.space else ""
    {".vtk": _state_in_title, ".vtp": _state_in_fields, ".ply": _state_in_comment}[path.suffix.lower()](
        writer, surface, statement
    )
    writer.SetFileName(str(path))
    writer.SetInputData(surface)
    with _messages() as messages:
        written = writer.Write()
    if not written or any(messages):
        raise OSError(f"VTK could not write {path}")


def _state_in_title(writer: Any, surface: Any, statement: str) -> None:
    writer.SetHeader(f"PatchMorph {statement}".strip())
    writer.SetFileVersion(42)  # version 4.2, which all readers support


def _state_in_fields(writer: Any, surface: Any, statement: str) -> None:
    fields = surface.GetFieldData()
    fields.RemoveArray(SPACE)
    if statement:
        array = extra("vtkmodules.vtkCommonCore").vtkStringArray()
        array.SetName(SPACE)
        array.InsertNextValue(statement.removeprefix(f"{SPACE}="))
        fields.AddArray(array)


def _state_in_comment(writer: Any, surface: Any, statement: str) -> None:
    if statement:
        writer.AddComment(statement)
    if surface.GetPointData().HasArray("RGB"):
        writer.SetArrayName("RGB")
