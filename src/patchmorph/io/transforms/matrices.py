"""Affine maps as plain text, four rows of four numbers: Greedy and c3d, NiftyReg, MRtrix.

All three map fixed to moving points in RAS+ mm: see Greedy's and c3d's manuals, ``-updSform`` in NiftyReg's
``reg_transform -h``, and ``-linear`` in ``mrtransform -help``. FLIRT's files look the same but differ in
frame and direction (`patchmorph.io.transforms.fsl`), so a matrix without MRtrix's comments must be named.
"""

from pathlib import Path

import numpy as np

from patchmorph.io.atomic import whole_file
from patchmorph.io.grids import GridPair
from patchmorph.io.transforms.parts import affine_transform, linear_part, matrix_in, numbers_in
from patchmorph.transforms.base import Transform

MRTRIX_COMMENTS = (b"# command_history:", b"# mrtrix_version:")
ITK_HEADER = b"#Insight Transform File"


def write_matrix(transform: Transform, path: Path, pair: GridPair) -> None:
    """Write an affine map.

    Raises:
        PatchMorphError: a transform that is not affine.
    """
    matrix = linear_part(transform, f"matrix {path}")
    with whole_file(path) as temporary:
        np.savetxt(temporary, matrix, fmt="%.12g")


def read_matrix(path: Path, pair: GridPair) -> Transform:
    """Read an affine map.

    Raises:
        PatchMorphError: not a matrix.
    """
    return affine_transform(matrix_in(path))


def detected_tool(path: Path) -> str | None:
    """The tool that a matrix file names: ITK or MRtrix; ``None`` for bare numbers."""
    data = path.read_bytes()
    if any(comment in data for comment in MRTRIX_COMMENTS):
        return "mrtrix"
    if b"\0" not in data[:512] and not data.startswith(ITK_HEADER) and numbers_in(path).ndim == 2:
        return None
    return "itk"
