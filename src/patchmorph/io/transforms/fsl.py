"""FSL's transform files: FLIRT matrices (``.mat``) and FNIRT displacement fields (``.nii.gz``).

FSL states coordinates in scaled millimetres of each image: voxel index × spacing, with the x axis reversed
where the voxel-to-world matrix has a positive determinant (Jenkinson et al., NeuroImage 2012; FSL's FLIRT
FAQ). Both images are therefore required, to write and to read. A FLIRT matrix maps moving to fixed. A field
on the fixed grid holds the position in the moving image minus the position in the fixed image, or with
``--abs`` the position itself; `fields` reads both.
"""

from pathlib import Path

import nibabel
import numpy as np

from patchmorph.io.atomic import whole_file
from patchmorph.io.grids import GridPair, matrix_of
from patchmorph.io.headers import set_forms
from patchmorph.io.placement import SCANNER
from patchmorph.io.transforms.parts import (
    affine_transform,
    apply_matrix,
    dense_displacement,
    linear_part,
    matrix_in,
    voxel_grid,
)
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import Transform

DISPLACEMENT_FIELD = 2006
"""NIfTI intent code of a FNIRT displacement field."""


def write_matrix(transform: Transform, path: Path, pair: GridPair) -> None:
    """Write an affine map as FLIRT's ``-omat``.

    Raises:
        PatchMorphError: a transform that is not affine, or an image that was not given.
    """
    matrix = linear_part(transform, f"FLIRT matrix {path}")
    fixed, moving = pair.need_fixed(f"FLIRT matrix {path}"), pair.need_moving(f"FLIRT matrix {path}")
    flirt = world_to_fsl(fixed) @ np.linalg.inv(matrix) @ np.linalg.inv(world_to_fsl(moving))
    with whole_file(path) as temporary:
        np.savetxt(temporary, flirt, fmt="%.12g")


def read_matrix(path: Path, pair: GridPair) -> Transform:
    """Read FLIRT's ``-omat``.

    Raises:
        PatchMorphError: not 4×4 numbers, or an image that was not given.
    """
    fixed, moving = pair.need_fixed(f"FLIRT matrix {path}"), pair.need_moving(f"FLIRT matrix {path}")
    flirt = matrix_in(path)
    return affine_transform(np.linalg.inv(world_to_fsl(moving)) @ np.linalg.inv(flirt) @ world_to_fsl(fixed))


def write_warp(transform: Transform, path: Path, pair: GridPair) -> None:
    """Write the whole map as a relative displacement field, for ``applywarp --warp=… --rel``.

    Raises:
        PatchMorphError: an image was not given.
    """
    fixed, moving = pair.need_fixed(f"FSL warp {path}"), pair.need_moving(f"FSL warp {path}")
    world = apply_matrix(matrix_of(fixed), voxel_grid(fixed.shape))
    mapped = apply_matrix(world_to_fsl(moving), world + dense_displacement(transform, fixed))
    relative = (mapped - apply_matrix(world_to_fsl(fixed), world)).astype(np.float32)
    image = nibabel.Nifti1Image(relative, matrix_of(fixed))
    set_forms(image.header, matrix_of(fixed), SCANNER)  # FSL treats an image without a code as radiological
    image.header["intent_code"] = DISPLACEMENT_FIELD
    with whole_file(path) as temporary:
        nibabel.save(image, temporary)


def world_to_fsl(grid: Grid) -> np.ndarray:
    """RAS+ mm to FSL's scaled millimetres of the image on ``grid``: float64 ``[4, 4]``."""
    matrix = matrix_of(grid)
    scale = np.diag([*np.linalg.norm(matrix[:3, :3], axis=0), 1.0])
    if np.linalg.det(matrix[:3, :3]) > 0:
        scale[0, 3] = (grid.shape[0] - 1) * scale[0, 0]
        scale[0, 0] *= -1
    return scale @ np.linalg.inv(matrix)
