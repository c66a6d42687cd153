"""Transforms as SimpleITK's objects, for users of that library; files are read and written without it."""

from pathlib import Path
from typing import Any

import numpy as np

from patchmorph.errors import PatchMorphError
from patchmorph.io.extras import simpleitk
from patchmorph.io.formats.itk_volumes import array_of, itk_image, ras_matrix
from patchmorph.io.grids import LPS, check_square, matrix_of
from patchmorph.io.transforms.itk_records import COMPOSITE, FIELDS
from patchmorph.io.transforms.parts import affine_transform, displacement_field
from patchmorph.transforms.base import AffineTransform, Transform, compose
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.fields import as_fields

FLIP = LPS[:3, :3]
"""RAS+ to LPS+ for vectors, and back."""


def from_itk(transform: Any, path: Path) -> Transform:
    """The transform of a SimpleITK object; ``path`` names it in messages.

    Raises:
        PatchMorphError: not 3D, or a part that is neither affine nor a displacement field.
    """
    if transform.GetDimension() != 3:
        raise PatchMorphError(f"transform must be 3D, got {transform.GetDimension()}D in {path}")
    return compose(*(_part(part, path) for part in _flatten(transform)))


def to_itk(transform: Transform) -> Any:
    """The SimpleITK object of a transform, each field on its own grid (see `itk.write_composite`).

    Raises:
        PatchMorphError: a sheared grid, or SimpleITK is not installed.
    """
    sitk = simpleitk()
    composite = sitk.CompositeTransform(3)
    for part in as_fields(transform):
        if isinstance(part, AffineTransform):
            composite.AddTransform(_affine_to_itk(part))
            continue
        check_square(part.grid, "displacement field of SimpleITK")
        vectors = part.displacement[0].movedim(0, -1).cpu().double().numpy() * np.diag(FLIP)
        composite.AddTransform(sitk.DisplacementFieldTransform(itk_image(vectors, matrix_of(part.grid))))
    return composite


def _affine_to_itk(part: AffineTransform) -> Any:
    matrix = part.matrix[0].cpu().numpy()
    affine = simpleitk().AffineTransform(3)
    affine.SetMatrix((FLIP @ matrix[:3, :3] @ FLIP).flatten().tolist())
    affine.SetTranslation((FLIP @ matrix[:3, 3]).tolist())
    return affine


def _flatten(transform: Any) -> list[Any]:
    if transform.GetName() != COMPOSITE:
        return [transform]
    composite = simpleitk().CompositeTransform(transform)
    parts = [composite.GetNthTransform(k) for k in range(composite.GetNumberOfTransforms())]
    return [flat for part in parts for flat in _flatten(part)]


def _part(transform: Any, path: Path) -> Transform:
    if transform.IsLinear():
        return _from_affine(transform)
    if transform.GetName() not in FIELDS:
        name = transform.GetName()
        raise PatchMorphError(f"transform must be affine or a displacement field, got {name} in {path}")
    field = simpleitk().DisplacementFieldTransform(transform)
    return _from_field(field.GetDisplacementField())


def _from_field(image: Any) -> DisplacementField:
    matrix = ras_matrix(image.GetSpacing(), image.GetDirection(), image.GetOrigin())
    return displacement_field(array_of(image) * np.diag(FLIP), matrix)


def _from_affine(transform: Any) -> AffineTransform:
    """Any linear transform of ITK, centred or not, from its values at the origin and the unit vectors."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(tuple(unit))) - origin for unit in np.eye(3)]
    matrix = np.eye(4)
    matrix[:3, :3] = FLIP @ np.stack(columns, axis=1) @ FLIP
    matrix[:3, 3] = FLIP @ origin
    return affine_transform(matrix)
