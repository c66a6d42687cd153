"""AFNI's affine files (``.aff12.1D``): twelve numbers in a row, fixed → moving, in DICOM order (LPS+ mm).

AFNI's programs snap the axes of oblique images to the nearest cardinal ones before they use such a matrix
(``3dAllineate``; github.com/afni/afni/issues/353), so a matrix is valid only between images that are not
oblique. Oblique images must go through ``3dWarp -deoblique`` first; an oblique grid in the pair is rejected.
"""

from pathlib import Path

import numpy as np

from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import whole_file
from patchmorph.io.grids import LPS, GridPair, matrix_of
from patchmorph.io.transforms.parts import affine_transform, linear_part, numbers_in
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import Transform

MAX_OBLIQUE_SINE = 1e-3
"""Sine of the angle above which an axis counts as oblique (0.01° is 2e-4; headers are float32)."""


def write_affine(transform: Transform, path: Path, pair: GridPair) -> None:
    """Write an affine map, for ``3dAllineate -1Dmatrix_apply``.

    Raises:
        PatchMorphError: a transform that is not affine, or oblique images.
    """
    matrix = linear_part(transform, f"AFNI affine {path}")
    check_not_oblique(pair, path)
    numbers = (LPS @ matrix @ LPS)[:3].ravel()
    with whole_file(path) as temporary:
        temporary.write_text(
            "# 3dvolreg matrices (DICOM-to-DICOM, row-by-row):\n"
            + " ".join(f"{number:.10g}" for number in numbers)
            + "\n",
            encoding="utf-8",
        )


def read_affine(path: Path, pair: GridPair) -> Transform:
    """Read an affine file: one row of twelve numbers, or three of four (``.1D`` of ``cat_matvec``).

    Raises:
        PatchMorphError: not twelve numbers, or oblique images.
    """
    check_not_oblique(pair, path)
    numbers = numbers_in(path).ravel()
    if numbers.size != 12:
        raise PatchMorphError(f"AFNI affine must be twelve numbers, got {numbers.size} in {path}")
    return affine_transform(LPS @ np.vstack([numbers.reshape(3, 4), [0, 0, 0, 1]]) @ LPS)


def check_not_oblique(pair: GridPair, path: Path) -> None:
    """Check that neither image is oblique.

    Raises:
        PatchMorphError: one is.
    """
    for grid in (pair.fixed, pair.moving):
        if grid is not None and _oblique(grid):
            raise PatchMorphError(
                f"AFNI transform {path} must be between images that are not oblique, got one that is "
                "(3dWarp -deoblique)"
            )


def _oblique(grid: Grid) -> bool:
    linear = matrix_of(grid)[:3, :3]
    cosines = np.abs(linear / np.linalg.norm(linear, axis=0))
    return bool((np.sort(cosines, axis=0)[:2] > MAX_OBLIQUE_SINE).any())
