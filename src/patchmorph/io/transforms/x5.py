"""X5 (``.x5``), the exchange format drafted for BIDS, through nitransforms. World: RAS+ mm, fixed → moving.

A chain is stored innermost first, each field on its own grid, with a data set that states the order. If the
fixed image is given, the whole map is written as one field on its grid instead: nitransforms interpolates
fields by cubic splines, so a coarse field gives a different map between its points.
"""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.io.atomic import whole_file
from patchmorph.io.extras import extra
from patchmorph.io.grids import GridPair, matrix_of
from patchmorph.io.hdf5 import check_room, open_hdf5
from patchmorph.io.transforms.parts import (
    affine_transform,
    apply_matrix,
    dense_displacement,
    displacement_field,
    voxel_grid,
)
from patchmorph.transforms.base import AffineTransform, Transform, compose
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.fields import as_fields

DIMENSION_KINDS = ("space", "space", "space", "vector")
HEADER_BYTES = 2**15
"""More than what describes one transform."""
ORDER = "TransformChain/0"
"""Data set with the order of the file's transforms: their numbers joined by slashes, innermost first."""


def write_x5(transform: Transform, path: Path, pair: GridPair) -> None:
    """Write the chain, or one dense field on the fixed grid if the fixed image is given."""
    x5 = extra("nitransforms.io.x5")
    if pair.fixed is not None and not isinstance(transform, AffineTransform):
        transform = DisplacementField.tabulate(transform, pair.fixed)
    nodes = [_node(part, x5) for part in reversed(as_fields(transform))]
    size = HEADER_BYTES * len(nodes) + sum(node.transform.nbytes for node in nodes)
    with whole_file(path) as temporary:
        check_room(temporary, size)
        x5.to_filename(temporary, nodes)
        with h5py.File(temporary, "r+") as file:
            file.create_dataset(ORDER, data="/".join(str(k) for k in range(len(nodes))))


def read_x5(path: Path, pair: GridPair) -> Transform:
    """Read a chain, or a single transform.

    Raises:
        PatchMorphError: not X5, or a transform that is neither affine nor a dense field.
    """
    x5 = extra("nitransforms.io.x5")
    with open_hdf5(path) as file:
        order = bytes(np.asarray(file[ORDER])[()]).decode() if ORDER in file else "0"
    steps = [int(k) for k in order.split("/")]
    nodes = x5.from_filename(path)
    if not all(0 <= k < len(nodes) for k in steps) or len({*steps}) < len(steps):
        got = one_line(order)
        raise PatchMorphError(f"chain must name each of {len(nodes)} transforms once, got {got} in {path}")
    return compose(*reversed([_step(nodes[k], path) for k in steps]))


def _node(part: AffineTransform | DisplacementField, x5: Any) -> Any:
    if isinstance(part, AffineTransform):
        matrix = part.matrix[0].cpu().numpy()
        return x5.X5Transform("linear", matrix, "affine", "matrix", dimension_kinds=DIMENSION_KINDS)
    return x5.X5Transform(
        "nonlinear",
        dense_displacement(part, part.grid),
        "densefield",
        "displacements",
        dimension_kinds=DIMENSION_KINDS,
        domain=x5.X5Domain(True, part.grid.shape, matrix_of(part.grid), "cartesian"),
    )


def _step(node: Any, path: Path) -> Transform:
    if node.type == "linear" and node.array_length == 1:
        return affine_transform(np.asarray(node.transform).reshape(4, 4))
    if node.type == "nonlinear" and node.subtype == "densefield":
        matrix = np.asarray(node.domain.mapping, dtype=np.float64)
        numbers = np.asarray(node.transform, dtype=np.float64)
        if numbers.shape != (*node.domain.size, 3):
            size = tuple(map(int, node.domain.size))
            raise PatchMorphError(f"field must be 3 numbers a voxel of {size}, got {numbers.shape} in {path}")
        if node.representation == "deformations":
            numbers = numbers - apply_matrix(matrix, voxel_grid(numbers.shape[:3]))
        return displacement_field(numbers, matrix)
    raise PatchMorphError(f"transform must be affine or a dense field, got {node.type} in {path}")
