"""X5 (``.x5``), the exchange format that BIDS drafts, through nitransforms. World: RAS+ mm, fixed → moving.

A chain is stored innermost first, each field on its own grid, with the order in which they follow.
Where the fixed image is given, the whole map is one field on its grid instead: nitransforms interpolates
fields by cubic splines, so a coarse one is not the same map there between its points.
"""

import functools
import operator
from pathlib import Path
from typing import Any

import numpy as np

from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import whole_file
from patchmorph.io.extras import extra
from patchmorph.io.transforms.grids import (
    Pair,
    affine_transform,
    dense_displacement,
    displacement_field,
    matrix_of,
)
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.fields import as_fields

KINDS = ("space", "space", "space", "vector")
ORDER = "TransformChain/0"
"""Of the file's transforms, by their numbers with slashes between, innermost first."""


def write_x5(transform: Transform, path: Path, pair: Pair) -> None:
    """Write the chain, or one dense field on the fixed grid if that is given."""
    h5py, x5 = extra("h5py"), extra("nitransforms.io.x5")
    if pair.fixed is not None and not isinstance(transform, AffineTransform):
        transform = DisplacementField.tabulate(transform, pair.fixed)
    nodes = [_node(part, x5) for part in reversed(as_fields(transform))]
    with whole_file(path) as temporary:
        x5.to_filename(temporary, nodes)
        with h5py.File(temporary, "r+") as file:
            file.create_dataset(ORDER, data="/".join(str(k) for k in range(len(nodes))))


def read_x5(path: Path, pair: Pair) -> Transform:
    """Read a chain, or a single transform.

    Raises:
        PatchMorphError: not X5, or a kind of transform that is neither affine nor a dense field.
    """
    h5py, x5 = extra("h5py"), extra("nitransforms.io.x5")
    try:
        nodes = x5.from_filename(path)
        with h5py.File(path) as file:
            said = file[ORDER][()].decode() if ORDER in file else "0"
        steps = [_step(nodes[int(k)], path) for k in said.split("/")]
    except (OSError, TypeError, KeyError, ValueError, IndexError) as error:
        if isinstance(error, PatchMorphError):
            raise
        raise PatchMorphError(f"transform must be an X5 file, got {path}: {error}") from None
    return functools.reduce(operator.matmul, reversed(steps))


def _node(part: AffineTransform | DisplacementField, x5: Any) -> Any:
    if isinstance(part, AffineTransform):
        matrix = part.matrix[0].cpu().numpy()
        return x5.X5Transform("linear", matrix, "affine", "matrix", dimension_kinds=KINDS)
    return x5.X5Transform(
        "nonlinear",
        dense_displacement(part, part.grid),
        "densefield",
        "displacements",
        dimension_kinds=KINDS,
        domain=x5.X5Domain(True, part.grid.shape, matrix_of(part.grid), "cartesian"),
    )


def _step(node: Any, path: Path) -> Transform:
    if node.type == "linear" and node.array_length == 1:
        return affine_transform(np.asarray(node.transform).reshape(4, 4), path)
    if node.type == "nonlinear" and node.subtype == "densefield":
        matrix = np.asarray(node.domain.mapping, dtype=np.float64)
        numbers = np.asarray(node.transform, dtype=np.float64)
        if node.representation == "deformations":
            voxel = np.stack(np.meshgrid(*map(np.arange, numbers.shape[:3]), indexing="ij"), axis=-1)
            numbers = numbers - (voxel @ matrix[:3, :3].T + matrix[:3, 3])
        return displacement_field(numbers, matrix)
    raise PatchMorphError(f"transform must be affine or a dense field, got {node.type} in {path}")
