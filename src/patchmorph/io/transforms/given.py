"""Transforms as users give them: in memory, as a matrix, or as a file."""

import os
from pathlib import Path

import numpy as np
import torch

from patchmorph.errors import PatchMorphError
from patchmorph.io.grids import GridPair
from patchmorph.io.transforms.checks import checked
from patchmorph.io.transforms.formats import load_transform
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.gaps import missing_voxels

AnyTransform = Transform | np.ndarray | torch.Tensor | str | os.PathLike


def as_transform(given: AnyTransform, tool: str | None, grids: GridPair, names: str) -> Transform:
    """The map from the fixed to the moving world that a registration starts from.

    Args:
        given: a transform, its file, or its matrix ``[4, 4]`` (RAS+ mm).
        tool: whose convention the file follows, where it does not say.
        grids: of the images, which some files require.
        names: what may be given instead of a file, for messages.

    Raises:
        PatchMorphError: none of these, or a map that is not defined everywhere.
    """
    if isinstance(given, Transform):
        transform = given
    elif isinstance(given, str | os.PathLike):
        if not Path(given).exists():
            raise PatchMorphError(f"initial transform must be an existing file, or {names}, got {given}")
        transform = load_transform(Path(given), tool, grids)
    else:
        transform = _as_affine(given)
    if missing := missing_voxels(transform):
        raise PatchMorphError(f"initial transform must map every point, got {missing} voxels without a value")
    return transform


def _as_affine(given: np.ndarray | torch.Tensor) -> Transform:
    matrix = np.asarray(given)
    if matrix.shape != (4, 4) or matrix.dtype.kind not in "iuf":
        what = f"{type(given).__name__} of shape {matrix.shape}"
        raise PatchMorphError(f"initial transform must be a transform, a file or a 4 by 4 matrix, got {what}")
    numbers = torch.from_numpy(matrix.astype(np.float64))[None]
    return checked(AffineTransform(numbers), Path("the initial transform"))
