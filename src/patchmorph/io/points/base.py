"""Points of a file, and the coordinate frame that they are in."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from patchmorph.errors import PatchMorphError
from patchmorph.io.formats.registry import is_image
from patchmorph.io.grids import LPS, matrix_of
from patchmorph.io.images import load_grid
from patchmorph.io.stated import NOTHING, Stated


@dataclass(frozen=True, eq=False)
class Frame:
    """Coordinate frame of points.

    Attributes:
        to_world: ``[4, 4]``, from the frame to RAS+ mm.
        name: for messages.
        space: ``RAS`` or ``LPS``, which heads of files can state; ``None``: another frame.
        reason: why points are taken to be in it.
    """

    to_world: Float[np.ndarray, "4 4"]
    name: str
    space: str | None = None
    reason: str = ""

    @classmethod
    def named(cls, name: str, stated: Stated = NOTHING) -> "Frame":
        """``ras``, ``lps``, or the path of an image for its voxel indices (from 0).

        Args:
            name: as above.
            stated: what the image's header does not state.

        Raises:
            PatchMorphError: none of these.
        """
        if name.lower() in SPACES:
            return SPACES[name.lower()].because("as given")
        if not is_image(Path(name)):
            raise PatchMorphError(f"frame must be ras, lps or an image (its voxels), got {name}")
        return cls(matrix_of(load_grid(name, stated)), f"voxels of {Path(name).name}", reason="as given")

    def because(self, reason: str) -> "Frame":
        """The same frame for another reason."""
        return replace(self, reason=reason)

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


RAS = Frame(np.eye(4), "ras", "RAS")
LPS_FRAME = Frame(LPS, "lps", "LPS")
SPACES = {"ras": RAS, "lps": LPS_FRAME}


@dataclass(frozen=True)
class PointFile:
    """The points of a file.

    Attributes:
        points: as they are stored. frame: the frame that the file states or its format implies; raises a
            `PatchMorphError` if there is none.
        save: ``save(path, points, source, target)`` writes a copy of the file with other points, in the frame
            ``target``; ``source`` is that of the points before. Points that are not finite are written as the
            format allows.
        result: frame of mapped points by default; ``None``: the frame they were in.
        is_surface: whether the points are the corners of faces, of which none may be missing.
        is_cell: which points are cells where others are in the file, too; ``None``: all.
    """

    points: Float[np.ndarray, "n 3"]
    frame: Callable[[], Frame]
    save: Callable[[Path, np.ndarray, Frame, Frame], None]
    result: Frame | None = None
    is_surface: bool = False
    is_cell: Bool[np.ndarray, " n"] | None = None


def apply_matrix(
    matrix: Float[np.ndarray, "4 4"], points: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
    """Points mapped by an affine matrix."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def need_space(frame: Frame, path: Path) -> str:
    """``RAS`` or ``LPS``, for a format whose header cannot state another frame.

    Raises:
        PatchMorphError: the frame is neither.
    """
    if frame.space is None:
        raise PatchMorphError(f"points in {path.name} must be ras or lps (--output-frame), got {frame.name}")
    return frame.space
