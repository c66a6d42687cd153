"""Markups of 3D Slicer (``.mrk.json``), which state their frame and unit.

Format: 3D Slicer's markups schema 1.0. Measurements and orientations are not mapped.
"""

import copy
import json
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, BeforeValidator, Field, FiniteFloat, ValidationError

from patchmorph.errors import PatchMorphError, one_line, problems
from patchmorph.io.points.base import SPACES, Frame, PointFile, need_space
from patchmorph.io.tables import read_text

UNITS_MM = {"mm": 1.0, "um": 1e-3}
Position = Annotated[list[FiniteFloat], Field(min_length=3, max_length=3)]
Axes = Annotated[list[FiniteFloat], Field(min_length=9, max_length=9)]
Unit = Annotated[
    Literal["mm", "um"], BeforeValidator(lambda unit: unit[0] if isinstance(unit, list) else unit)
]
"""A code of UCUM, alone or with the scheme and meaning of the code."""


class _ControlPoint(BaseModel):
    position: Position | Literal[""] | None = None
    status: str = Field(default="defined", alias="positionStatus")
    orientation: Axes | None = None

    @property
    def is_defined(self) -> bool:
        return self.status == "defined" and bool(self.position)


class _Markup(BaseModel):
    """Markups that are nothing but their control points: planes and boxes have axes and sizes, too."""

    type: Literal["Fiducial", "PointList", "Line", "Angle", "Curve", "ClosedCurve"]
    space: Literal["LPS", "RAS"] = Field(default="LPS", alias="coordinateSystem")
    unit: Unit = Field(default="mm", alias="coordinateUnits")
    points: list[_ControlPoint] = Field(alias="controlPoints")


class _Markups(BaseModel):
    markups: list[_Markup] = Field(min_length=1)


def read_markups(path: Path) -> PointFile:
    """The defined control points of all markups in a file; all its other content is kept.

    Raises:
        PatchMorphError: no markups, markups of several frames or of a type with other geometry, no points, or
            a coordinate that is not a finite number.
    """
    try:
        content = json.loads(read_text(path, "points"))
        markups = _Markups.model_validate(content).markups
    except ValidationError as error:
        raise PatchMorphError(f"points must be markups of 3D Slicer, got {path}: {problems(error)}") from None
    except PatchMorphError:
        raise
    except (ValueError, RecursionError) as error:  # no JSON, or a number of thousands of digits
        raise PatchMorphError(f"points must be JSON, got {path}: {one_line(error)}") from None
    frames = {(markup.space, markup.unit) for markup in markups}
    if len(frames) > 1:
        raise PatchMorphError(f"markups of one file must share their frame, got {sorted(frames)} in {path}")
    points = [point.position for markup in markups for point in markup.points if point.is_defined]
    if not points:
        raise PatchMorphError(f"points must have positions, got none in {path}")
    frame = _frame(*frames.pop())
    return PointFile(np.array(points, dtype=float), lambda: frame, partial(_save, content))


def _frame(space: str, unit: str) -> Frame:
    frame, reason = SPACES[space.lower()], f"by its coordinateSystem {space}"
    if unit == "mm":
        return frame.because(reason)
    matrix = frame.to_world @ np.diag([UNITS_MM[unit]] * 3 + [1.0])
    return Frame(matrix, f"{frame.name} in {unit}", space, reason)


def _save(
    content: dict[str, Any], path: Path, points: Float[np.ndarray, "n 3"], source: Frame, target: Frame
) -> None:
    space = need_space(target, path)
    content = copy.deepcopy(content)
    rows = iter(points.round(6).tolist())
    for markup in content["markups"]:
        for point in markup["controlPoints"]:
            if _ControlPoint.model_validate(point).is_defined:
                _place(point, next(rows))
            if point.get("orientation") and space != source.space:
                point["orientation"] = [-x for x in point["orientation"][:6]] + point["orientation"][6:]
        markup["coordinateSystem"] = space
        if target is not source:
            markup["coordinateUnits"] = "mm"
    text = json.dumps(content, indent=4, ensure_ascii=False) + "\n"
    path.write_bytes(text.encode(errors="backslashreplace"))  # half a pair of surrogates, as it was given


def _place(point: dict[str, Any], position: list[float]) -> None:
    """Set a position; one that is not finite is marked as missing, since JSON has no NaN."""
    if np.isfinite(position).all():
        point["position"] = position
    else:
        point.update(position="", positionStatus="missing")
