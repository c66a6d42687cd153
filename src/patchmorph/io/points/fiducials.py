"""Fiducials of 3D Slicer (``.fcsv``), whose head states the frame.

Format: documentation of 3D Slicer's module Markups. A comment names the columns; without it, coordinates are
in the second to fourth column.
"""

import csv
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.io.points.base import LPS_FRAME, RAS, Frame, PointFile, need_space
from patchmorph.io.tables import Row, newline_of, read_text

SYSTEM, COLUMNS = "# CoordinateSystem = ", "# columns = "
CODES = {"0": RAS, "RAS": RAS, "1": LPS_FRAME, "LPS": LPS_FRAME}
"""Values of ``CoordinateSystem``; numbers are of versions before 4.11."""


def read_fiducials(path: Path) -> PointFile:
    """The points of an ``.fcsv`` file; all its other content is kept.

    Raises:
        PatchMorphError: not text, no points, or a coordinate that is not a finite number.
    """
    text = read_text(path, "points")
    newline = newline_of(text)
    fiducials = _Fiducials(path, text.split(newline), newline)
    if not fiducials.numbers:
        raise PatchMorphError(f"points must have rows, got none in {path}")
    return PointFile(fiducials.points(), fiducials.frame, fiducials.save)


@dataclass(frozen=True)
class _Fiducials:
    path: Path
    lines: list[str]
    newline: str

    @cached_property
    def numbers(self) -> list[int]:
        """Indices of the lines that hold points."""
        return [k for k, line in enumerate(self.lines) if line.strip() and not line.startswith("#")]

    @cached_property
    def columns(self) -> list[int]:
        """Places of x, y and z in a row."""
        names = self.stated(COLUMNS).split(",")
        return [names.index(axis) if axis in names else 1 + place for place, axis in enumerate("xyz")]

    def stated(self, head: str) -> str:
        """What a comment states; empty if there is none."""
        return next((line.removeprefix(head).strip() for line in self.lines if line.startswith(head)), "")

    def frame(self) -> Frame:
        system = self.stated(SYSTEM)
        if system not in CODES:
            got = f"CoordinateSystem {system or 'not stated'} in {self.path}"
            raise PatchMorphError(f"fiducials must be RAS or LPS (else --frame), got {got}")
        return CODES[system].because(f"by its CoordinateSystem = {system}")

    def points(self) -> Float[np.ndarray, "n 3"]:
        return np.array([self._point(number) for number in self.numbers])

    def _point(self, number: int) -> list[float]:
        where = f"line {number + 1} of {self.path}"
        try:
            cells = next(csv.reader([self.lines[number]]))
        except csv.Error as error:
            raise PatchMorphError(f"points must be CSV, got {one_line(error)} in {where}") from None
        if len(cells) <= max(self.columns):
            raise PatchMorphError(f"points must have three coordinates, got {len(cells)} cells in {where}")
        row = Row(
            where, {axis: cells[place].strip() for axis, place in zip("xyz", self.columns, strict=True)}
        )
        return [row.number(axis) for axis in "xyz"]

    def save(self, path: Path, points: Float[np.ndarray, "n 3"], source: Frame, target: Frame) -> None:
        space = need_space(target, path)
        lines = list(self.lines)
        for number, point in zip(self.numbers, points, strict=True):
            cells = next(csv.reader([lines[number]]))
            for place, value in zip(self.columns, point, strict=True):
                cells[place] = f"{value:.6f}"
            with io.StringIO() as line:
                csv.writer(line, lineterminator="").writerow(cells)
                lines[number] = line.getvalue()
        stated = self.stated(SYSTEM)
        if stated not in CODES or CODES[stated].space != space:
            lines = [line for line in lines if not line.startswith(SYSTEM)]
            lines.insert(int(lines[0].startswith("#")), SYSTEM + space)
        path.write_text(self.newline.join(lines), encoding="utf-8", newline="")
