"""The files of an ANTs registration, in the lists that ``ants.apply_transforms`` takes.

The forward list is ``[1Warp.nii.gz, 0GenericAffine.mat]``, whose last transform acts last on a point; the
inverse list is ``[0GenericAffine.mat, 1InverseWarp.nii.gz]``, whose matrix ANTsPy inverts. Both warps are on
the fixed grid. A map without a dense part has the matrix alone in both lists.
"""

import os
from pathlib import Path

from patchmorph.io.grids import GridPair
from patchmorph.io.transforms.formats import save_transform
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform, Transform, compose

AFFINE, WARP, INVERSE_WARP = "0GenericAffine.mat", "1Warp.nii.gz", "1InverseWarp.nii.gz"


def write_ants(transform: Transform, fixed: Grid, prefix: str | os.PathLike) -> dict[str, list[str]]:
    """Write the affine part, the dense part and the inverse of the dense part.

    Args:
        transform: fixed → moving world.
        fixed: grid of the fixed image.
        prefix: of the names of the files, with their folder.

    Returns:
        The lists ``fwdtransforms`` and ``invtransforms``, as ``ants.registration`` returns them.

    Raises:
        PatchMorphError: a sheared grid, or a path that cannot be written.
    """
    affine, *others = transform.parts()
    if not isinstance(affine, AffineTransform):
        affine, others = AffineTransform.identity(), [affine, *others]
    files = {name: f"{os.fsdecode(prefix)}{name}" for name in (AFFINE, WARP, INVERSE_WARP)}
    save_transform(affine, Path(files[AFFINE]))
    if not others:
        return {"fwdtransforms": [files[AFFINE]], "invtransforms": [files[AFFINE]]}
    dense, pair = compose(*others), GridPair(fixed, fixed)
    save_transform(dense, Path(files[WARP]), "itk", pair)
    save_transform(dense.inverse(), Path(files[INVERSE_WARP]), "itk", pair)
    return {
        "fwdtransforms": [files[WARP], files[AFFINE]],
        "invtransforms": [files[AFFINE], files[INVERSE_WARP]],
    }
