"""The grids of an image pair, and their matrices as files store them."""

from dataclasses import dataclass

import numpy as np
import torch

from patchmorph.errors import PatchMorphError
from patchmorph.spatial.grid import Grid


@dataclass(frozen=True)
class GridPair:
    """Grids of the fixed and the moving image, each optional.

    FSL and FreeSurfer state coordinates in the frames of both images, so the numbers of one map differ
    between pairs of grids. A dense field is sampled on the fixed grid.
    """

    fixed: Grid | None = None
    moving: Grid | None = None
    options: tuple[str, str] = ("--reference", "--moving")
    """Command-line options that supply the grids, for error messages."""

    def need_fixed(self, what: str) -> Grid:
        """The fixed image's grid; ``what`` names the file that requires it.

        Raises:
            PatchMorphError: it was not given.
        """
        return self._need(self.fixed, what, "fixed", self.options[0])

    def need_moving(self, what: str) -> Grid:
        """The moving image's grid; ``what`` names the file that requires it.

        Raises:
            PatchMorphError: it was not given.
        """
        return self._need(self.moving, what, "moving", self.options[1])

    def _need(self, grid: Grid | None, what: str, name: str, option: str) -> Grid:
        if grid is None:
            raise PatchMorphError(
                f"{what} must be given the {name} image ({option}; or convert it first), got none"
            )
        return grid

    def swapped(self) -> "GridPair":
        """The grids of the inverse map."""
        return GridPair(self.moving, self.fixed, (self.options[1], self.options[0]))

    def to(self, device: torch.device | str) -> "GridPair":
        """The same grids on another device."""
        fixed, moving = (None if grid is None else grid.to(device) for grid in (self.fixed, self.moving))
        return GridPair(fixed, moving, self.options)


LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""RAS+ mm to LPS+ mm (ITK, DICOM), and back: its own inverse."""
MAX_COSINE = 1e-4
"""Cosine of the angle between two axes up to which they count as orthogonal."""


def matrix_of(grid: Grid) -> np.ndarray:
    """Voxel to world (RAS+ mm), float64 ``[4, 4]``."""
    return grid.voxel_to_world[0].cpu().numpy()


def check_square(grid: Grid, what: str) -> None:
    """Check that the axes of a grid are orthogonal, for a format that cannot store shear.

    Raises:
        PatchMorphError: they are not.
    """
    if not is_square(matrix_of(grid)):
        raise PatchMorphError(f"{what} must be on a grid without shear, got a sheared grid")


def is_square(matrix: np.ndarray) -> bool:
    """Whether the axes of a matrix ``[4, 4]`` are orthogonal, but for rounding errors of headers."""
    linear = matrix[:3, :3]
    axes = linear / np.linalg.norm(linear, axis=0)
    return np.allclose(axes.T @ axes, np.eye(3), atol=MAX_COSINE)
