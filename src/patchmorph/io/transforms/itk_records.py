"""What ITK's transform files hold, whatever their encoding: a class and two lists of numbers each."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.io.grids import LPS
from patchmorph.io.transforms.itk_linear import LINEAR, matrix_of
from patchmorph.io.transforms.parts import affine_transform, displacement_field
from patchmorph.transforms.base import AffineTransform, Transform, compose
from patchmorph.transforms.displacement import DisplacementField

COMPOSITE = "CompositeTransform"
FIELDS = (
    "DisplacementFieldTransform",
    "BSplineSmoothingOnUpdateDisplacementFieldTransform",
    "GaussianSmoothingOnUpdateDisplacementFieldTransform",
)
"""Classes of displacement fields: the latter two differ in how ITK updates them."""
GRID_NUMBERS = 18
"""Fixed parameters of a field: size, origin, spacing, direction row by row."""
KIND = re.compile(r"(\w+)_(?:double|float)_(\d+)_(\d+)")
"""Class, number type and dimensions."""


class Record(NamedTuple):
    """One transform of a file.

    Attributes:
        kind: class with number type and dimensions, such as ``AffineTransform_double_3_3``.
        parameters: ``[n]``.
        fixed: fixed parameters ``[n]``: the centre of a linear map, the grid of a field.
    """

    kind: str
    parameters: np.ndarray
    fixed: np.ndarray


def is_composite(kind: str) -> bool:
    """Whether a kind is that of the first record of a list of transforms."""
    return kind.startswith(f"{COMPOSITE}_")


def transform_of(records: list[Record], path: Path) -> Transform:
    """The map of a file: one transform, or a composite, whose last one acts first.

    Raises:
        PatchMorphError: none or several without a composite, not 3D, or of a kind that is not read.
    """
    if records and is_composite(records[0].kind):
        return compose(*(_part(record, path) for record in records[1:]))
    if len(records) != 1:
        got = f"{len(records)} transforms in {path}"
        raise PatchMorphError(f"ITK transform file must hold one transform or a composite, got {got}")
    return _part(records[0], path)


def _part(record: Record, path: Path) -> AffineTransform | DisplacementField:
    found = KIND.fullmatch(record.kind)
    if found is None:
        raise PatchMorphError(f"ITK transform must name its kind, got {one_line(record.kind)!r} in {path}")
    name, *dimensions = found.groups()
    if dimensions != ["3", "3"]:
        raise PatchMorphError(f"transform must be 3D, got {dimensions[0]}D in {path}")
    if name in FIELDS:
        return _field(record, path)
    if name not in LINEAR:
        raise PatchMorphError(f"transform must be affine or a displacement field, got {name} in {path}")
    matrix = matrix_of(name, record.parameters.astype(np.float64), record.fixed.astype(np.float64), path)
    return affine_transform(LPS @ matrix @ LPS)


def _field(record: Record, path: Path) -> DisplacementField:
    """A displacement field: vectors with x fastest, in LPS+ mm."""
    if len(record.fixed) != GRID_NUMBERS:
        got = f"{len(record.fixed)} in {path}"
        raise PatchMorphError(f"ITK displacement field must have {GRID_NUMBERS} fixed parameters, got {got}")
    size, origin, spacing, direction = np.split(record.fixed.astype(np.float64), (3, 6, 9))
    if not (size >= 1).all() or 3 * np.prod(size) != len(record.parameters):
        got = f"{len(record.parameters)} for a size of {' '.join(f'{n:g}' for n in size)} in {path}"
        raise PatchMorphError(f"ITK displacement field must have three numbers a voxel, got {got}")
    if not (spacing > 0).all():
        got = f"{' '.join(f'{n:g}' for n in spacing)} in {path}"
        raise PatchMorphError(f"spacing of an ITK displacement field must be above 0, got {got}")
    x, y, z = size.astype(int)
    flip = np.diag(LPS)[:3].astype(record.parameters.dtype)
    vectors = record.parameters.reshape(z, y, x, 3).transpose(2, 1, 0, 3) * flip
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = direction.reshape(3, 3) * spacing, origin
    return displacement_field(vectors, LPS @ matrix)
