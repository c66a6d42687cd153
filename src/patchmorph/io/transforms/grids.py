"""The two grids that some transform files need besides the transform, and what such files hold of it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from patchmorph.errors import PatchMorphError
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform
from patchmorph.transforms.displacement import DisplacementField


@dataclass(frozen=True)
class Pair:
    """Grids of the fixed and the moving image, as far as they are known.

    FSL and FreeSurfer state coordinates in the frame of each image, so the same map has other numbers for
    another pair; a dense field stands on the fixed grid.
    """

    fixed: Grid | None = None
    moving: Grid | None = None
    options: tuple[str, str] = ("--reference", "--moving")
    """Of the commands that give them, for messages."""

    def need_fixed(self, what: str) -> Grid:
        """The fixed image's grid.

        Raises:
            PatchMorphError: it is not known.
        """
        return self._need(self.fixed, what, "fixed", self.options[0])

    def need_moving(self, what: str) -> Grid:
        """The moving image's grid.

        Raises:
            PatchMorphError: it is not known.
        """
        return self._need(self.moving, what, "moving", self.options[1])

    def _need(self, grid: Grid | None, what: str, name: str, option: str) -> Grid:
        if grid is None:
            raise PatchMorphError(
                f"{what} must be given the {name} image ({option}; or convert it first), got none"
            )
        return grid

    def swapped(self) -> "Pair":
        """Of the inverse."""
        return Pair(self.moving, self.fixed, (self.options[1], self.options[0]))

    def to(self, device: torch.device | str) -> "Pair":
        """The same grids on another device."""
        fixed, moving = (None if grid is None else grid.to(device) for grid in (self.fixed, self.moving))
        return Pair(fixed, moving, self.options)


def matrix_of(grid: Grid) -> np.ndarray:
    """Voxel to world (RAS+ mm), float64 ``[4, 4]``."""
    return grid.voxel_to_world[0].cpu().numpy()


def check_square(grid: Grid, what: str) -> None:
    """Refuse a grid whose axes are not at right angles, where a file has no room for that.

    Raises:
        PatchMorphError: it is sheared.
    """
    linear = matrix_of(grid)[:3, :3]
    axes = linear / np.linalg.norm(linear, axis=0)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-4):
        raise PatchMorphError(f"{what} must be on a grid without shear, got one with")


def linear_part(transform: Transform, what: str) -> np.ndarray:
    """The matrix (RAS+ mm, float64) of a transform that is affine.

    Raises:
        PatchMorphError: it is not; ``what`` (of file) holds nothing else.
    """
    if not isinstance(transform, AffineTransform):
        fields = sum(not isinstance(part, AffineTransform) for part in transform.parts())
        raise PatchMorphError(f"{what} must get an affine transform, got one with {fields} fields")
    return transform.matrix[0].cpu().numpy()


def dense_displacement(transform: Transform, grid: Grid) -> np.ndarray:
    """The whole transform as displacements (mm, RAS+) on ``grid``: float32 ``[X, Y, Z, 3]``."""
    if isinstance(transform, DisplacementField) and transform.grid is grid:
        field = transform
    else:
        field = DisplacementField.tabulate(transform, grid)
    return field.displacement[0].movedim(0, -1).cpu().numpy()


def affine_transform(matrix: np.ndarray, path: object) -> AffineTransform:
    """A matrix out of a file as a transform.

    Raises:
        PatchMorphError: it has no inverse.
    """
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-9:
        raise PatchMorphError(f"transform must be invertible, got a singular matrix in {path}")
    return AffineTransform(torch.from_numpy(np.array(matrix, dtype=np.float64))[None])


def displacement_field(displacement: np.ndarray, matrix: np.ndarray) -> DisplacementField:
    """A field out of a file, zero outside its grid, as other tools take it.

    Args:
        displacement: ``[X, Y, Z, 3]``, mm, RAS+.
        matrix: voxel to world, RAS+ mm.
    """
    values = torch.from_numpy(np.ascontiguousarray(np.moveaxis(displacement, -1, 0), dtype=np.float32))
    x, y, z = values.shape[1:]
    grid = Grid((x, y, z), torch.from_numpy(np.array(matrix, dtype=np.float64))[None])
    return DisplacementField(values[None], grid, outside="zeros")


def numbers_in(path: Path) -> np.ndarray:
    """A text file of rows of numbers, lines with # left out; empty where it holds anything else."""
    try:
        lines = [line.partition("#")[0].split() for line in path.read_text(encoding="utf-8").splitlines()]
        return np.array([[float(word) for word in line] for line in lines if line])
    except ValueError:  # no numbers, no text, or rows of several lengths
        return np.zeros(0)
