"""Conversion between the parts of a transform and the arrays in files."""

from pathlib import Path

import numpy as np
import torch

from patchmorph.errors import PatchMorphError
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.displacement import DisplacementField


def linear_part(transform: Transform, what: str) -> np.ndarray:
    """The matrix ``[4, 4]`` (RAS+ mm, float64) of an affine transform, for the file that ``what`` names.

    Raises:
        PatchMorphError: the transform is not affine.
    """
    if not isinstance(transform, AffineTransform):
        fields = sum(not isinstance(part, AffineTransform) for part in transform.parts())
        raise PatchMorphError(f"{what} must get an affine transform, got one with {fields} fields")
    return transform.matrix[0].cpu().numpy()


def dense_displacement(transform: Transform, grid: Grid) -> np.ndarray:
    """The whole transform as a displacement (mm, RAS+) on ``grid``: float32 ``[X, Y, Z, 3]``."""
    if isinstance(transform, DisplacementField) and transform.grid is grid and transform.degree == 1:
        field = transform
    else:
        field = DisplacementField.tabulate(transform, grid)
    return field.displacement[0].movedim(0, -1).cpu().numpy()


def affine_transform(matrix: np.ndarray) -> AffineTransform:
    """The transform of a matrix ``[4, 4]`` from a file, in RAS+ mm."""
    return AffineTransform(torch.from_numpy(np.array(matrix, dtype=np.float64))[None])


def voxel_grid(shape: tuple[int, ...], step: int = 1) -> np.ndarray:
    """Voxel indices of a volume, or of every ``step``-th voxel along each axis: float64 ``[X, Y, Z, 3]``."""
    ranges = (np.arange(0, count, step, dtype=np.float64) for count in shape)
    return np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1)


def apply_matrix(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """``points`` ``[..., 3]`` under an affine ``matrix`` ``[4, 4]``."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def displacement_field(displacement: np.ndarray, matrix: np.ndarray) -> DisplacementField:
    """The transform of a field from a file, zero outside its grid as in other tools.

    Args:
        displacement: ``[X, Y, Z, 3]``, mm, RAS+.
        matrix: voxel to world, RAS+ mm.
    """
    values = torch.from_numpy(np.ascontiguousarray(np.moveaxis(displacement, -1, 0), dtype=np.float32))
    x, y, z = values.shape[1:]
    grid = Grid((x, y, z), torch.from_numpy(np.array(matrix, dtype=np.float64))[None])
    return DisplacementField(values[None], grid, outside="zeros")


def numbers_in(path: Path) -> np.ndarray:
    """The rows of numbers in a text file, without # comments; empty if it contains anything else."""
    try:
        text = path.read_text(encoding="utf-8").replace(",", " ")
        lines = [line.partition("#")[0].split() for line in text.splitlines()]
        return np.array([[float(word) for word in line] for line in lines if line])
    except ValueError:  # not numbers, not text, or rows of different lengths
        return np.zeros(0)


def matrix_in(path: Path) -> np.ndarray:
    """The matrix ``[4, 4]`` in a text file; the last row shows that the file is whole.

    Raises:
        PatchMorphError: other text.
    """
    rows = numbers_in(path)
    if rows.shape != (4, 4):
        raise PatchMorphError(f"matrix must be 4 by 4 numbers, got other text in {path}")
    return rows
