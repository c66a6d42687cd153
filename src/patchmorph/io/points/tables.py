"""Points in tables: columns x, y, z, and those that ANTs and 3D Slicer write.

The columns state the frame: ``x,y,z,t`` is LPS+ mm, as antsApplyTransformsToPoints reads and writes;
``l,p,s`` and ``r,a,s`` are what 3D Slicer exports; ``x,y,z`` alone is RAS+ mm by our convention. Tables of
cellfinder hold voxels of the image that its cells were found in, whose slices, rows and columns are `RAW`.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float

from patchmorph.errors import PatchMorphError
from patchmorph.io.points.base import LPS_FRAME, RAS, Frame, PointFile
from patchmorph.io.points.cellfinder import cells_among
from patchmorph.io.tables import Table, as_number, read_table

AXES = ("xyz", "ras", "lps")
"""Names of the columns of coordinates, a letter each, in lower or upper case."""
RAW = tuple(f"coordinate_raw_axis_{axis}" for axis in (2, 1, 0))
TYPE = "type"
"""Column of cellfinder's tables that tells cells from what it rejected."""


def read_point_table(path: Path) -> PointFile:
    """The points of a table; all its other columns are kept.

    Raises:
        PatchMorphError: no table with coordinates, or one that is not a finite number.
    """
    table = read_table(path, "points")
    lower = [name.lower() for name in table.names]
    found = [axes for axes in (*AXES, RAW) if set(axes) <= set(lower)]
    if len(found) != 1:
        got = f"{','.join(table.names)} in {path}"
        raise PatchMorphError(f"columns must be x,y,z, got {got} (or r,a,s or l,p,s, but one of these)")
    if any(lower.count(axis) > 1 for axis in found[0]):
        raise PatchMorphError(f"columns must have different names, got {','.join(table.names)} in {path}")
    if not table.rows:
        raise PatchMorphError(f"points must have rows, got none in {path}")
    columns = [lower.index(axis) for axis in found[0]]
    points = [[row.number(table.names[column]) for column in columns] for row in table.rows]
    types = [as_number(row.cells[name]) for row in table.rows for name in table.names if name == TYPE]
    is_cell = cells_among(np.array(types)) if types else None
    return PointFile(
        np.array(points), partial(_frame, found[0], lower), partial(_save, table, columns), is_cell=is_cell
    )


def _frame(axes: Sequence[str], names: list[str]) -> Frame:
    if axes == RAW:
        raise PatchMorphError(
            f"--frame must name the image that the cells were found in, got the columns {axes[-1]}, …"
        )
    if axes == "ras":
        return RAS.because("by its columns r,a,s")
    if axes == "lps":
        return LPS_FRAME.because("by its columns l,p,s")
    if "t" in names:
        return LPS_FRAME.because("by its columns x,y,z,t, as of ANTs; --frame changes it")
    return RAS.because("by convention; --frame changes it")


def _save(
    table: Table,
    columns: list[int],
    path: Path,
    points: Float[np.ndarray, "n 3"],
    source: Frame,
    target: Frame,
) -> None:
    names, rows = list(table.names), [list(row.cells.values()) for row in table.rows]
    axes = "".join(names[column].lower() for column in columns)
    if axes in ("ras", "lps") and axes != target.name:  # these names state the frame
        for column, name in zip(columns, target.name if target.space else "xyz", strict=True):
            names[column] = name
    for row, point in zip(rows, points, strict=True):
        for column, value in zip(columns, point, strict=True):
            row[column] = f"{value:.6f}"
    table.save(path, names, rows)
