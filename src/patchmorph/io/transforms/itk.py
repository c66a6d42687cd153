"""ITK's transform files, as read by ANTs, SimpleITK and 3D Slicer.

Composites (``.h5``), single affine maps (``.tfm``, ``.txt``, ``.mat``) and displacement fields as images
(``.nii.gz``, as ANTs' ``1Warp.nii.gz``; `fields` reads them). World: LPS+ mm, so x and y of points and
vectors change sign. A composite's last transform acts first, as in `Transform.parts`. Files map fixed to
moving points, as these tools require to resample the moving image.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lazy_loader
import numpy as np
import torch

from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import whole_file
from patchmorph.io.grids import GridPair, check_square, matrix_of
from patchmorph.io.quiet import quiet_libraries
from patchmorph.io.transforms.itk_composite import FLIP, write_parts
from patchmorph.io.transforms.itk_files import check_whole
from patchmorph.io.transforms.parts import (
    affine_transform,
    dense_displacement,
    displacement_field,
    linear_part,
)
from patchmorph.transforms.base import AffineTransform, Transform, compose
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.fields import as_fields

sitk: Any = lazy_loader.load("SimpleITK")
"""Loaded when it is first used: a tenth of a second that few commands need."""

PARAMETERS = {
    "AffineTransform": 12,
    "ComposeScaleSkewVersor3DTransform": 12,
    "Euler3DTransform": 6,
    "ScaleSkewVersor3DTransform": 15,
    "ScaleTransform": 3,
    "ScaleVersor3DTransform": 9,
    "Similarity3DTransform": 7,
    "TranslationTransform": 3,
    "VersorRigid3DTransform": 6,
    "VersorTransform": 3,
}
"""Numbers of parameters of ITK's linear transforms, which ignore further ones."""


def write_composite(transform: Transform, path: Path, pair: GridPair) -> None:
    """Write ``transform`` as an ITK composite (``.h5``), each field on its own grid.

    ITK treats a field as zero outside its grid. The fields of a registration vanish at the rim
    (`patchmorph.patches.blending.rim`), so both conventions agree. A field that does not vanish there is
    reproduced inside its grid only.

    Raises:
        PatchMorphError: a sheared grid, or a path that cannot be written.
    """
    write_parts(as_fields(transform), path)


def write_affine(transform: Transform, path: Path, pair: GridPair) -> None:
    """Write an affine map (``.tfm``, ``.txt``; ``.mat``: as ANTs' ``0GenericAffine.mat``).

    Raises:
        PatchMorphError: a transform that is not affine.
    """
    affine = affine_to_itk(AffineTransform(torch.from_numpy(linear_part(transform, f"file {path}"))[None]))
    _write(lambda name: sitk.WriteTransform(affine, name), path)


def write_field(transform: Transform, path: Path, pair: GridPair) -> None:
    """Write the whole map as one displacement field on the fixed grid (``.nii.gz``), float32.

    Raises:
        PatchMorphError: a sheared grid, or a fixed image that was not given.
    """
    grid = pair.need_fixed(f"displacement field {path}")
    check_square(grid, f"displacement field {path}")
    field = vector_image(dense_displacement(transform, grid), matrix_of(grid))
    _write(lambda name: sitk.WriteImage(field, name, useCompression=True), path)


def read_transform(path: Path, pair: GridPair) -> Transform:
    """Read an ITK transform file of affine maps and displacement fields.

    Raises:
        PatchMorphError: not a whole transform file, not 3D, or another kind of transform.
    """
    check_whole(path)
    with quiet_libraries():
        return _read_transform(path)


def _read_transform(path: Path) -> Transform:
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise PatchMorphError(
            f"transform must be a file that ITK reads, got {path}: {_reason(error)}"
        ) from None
    return from_itk(transform, path)


def from_itk(transform: Any, path: Path) -> Transform:
    """The transform of a SimpleITK object; ``path`` names it in messages.

    Raises:
        PatchMorphError: not 3D, or a part that is neither affine nor a displacement field.
    """
    if transform.GetDimension() != 3:
        raise PatchMorphError(f"transform must be 3D, got {transform.GetDimension()}D in {path}")
    return compose(*(_from_itk(part, path) for part in _flatten(transform)))


def to_itk(transform: Transform) -> Any:
    """The SimpleITK object of a transform, each field on its own grid (see `write_composite`).

    Raises:
        PatchMorphError: a sheared grid.
    """
    composite = sitk.CompositeTransform(3)
    for part in as_fields(transform):
        if isinstance(part, AffineTransform):
            composite.AddTransform(affine_to_itk(part))
            continue
        check_square(part.grid, "displacement field of SimpleITK")
        vectors = part.displacement[0].movedim(0, -1).cpu().double().numpy()
        composite.AddTransform(sitk.DisplacementFieldTransform(vector_image(vectors, matrix_of(part.grid))))
    return composite


def _write(write: Callable[[str], None], path: Path) -> None:
    with whole_file(path) as temporary, quiet_libraries():
        try:
            write(str(temporary))
        except RuntimeError as error:
            raise PatchMorphError(f"transform must be written whole, got {path}: {_reason(error)}") from None


def _reason(error: RuntimeError) -> str:
    """The last line of ITK's message, without its address in memory."""
    lines = str(error).strip().splitlines() or ["unknown"]
    return re.sub(r"ITK ERROR: |\(0x[0-9a-f]+\)", "", lines[-1]).strip()


def affine_to_itk(part: AffineTransform) -> Any:
    """The SimpleITK object of an affine map."""
    matrix = part.matrix[0].cpu().numpy()
    affine = sitk.AffineTransform(3)
    affine.SetMatrix((FLIP @ matrix[:3, :3] @ FLIP).flatten().tolist())
    affine.SetTranslation((FLIP @ matrix[:3, 3]).tolist())
    return affine


def vector_image(vectors: np.ndarray, matrix: np.ndarray) -> Any:
    """ITK image of displacements ``[X, Y, Z, 3]`` (mm, RAS+) on the grid of ``matrix`` (voxel to RAS+ mm)."""
    flipped = vectors.transpose(2, 1, 0, 3) * np.diag(FLIP).astype(vectors.dtype)
    image = sitk.GetImageFromArray(flipped, isVector=True)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((FLIP @ (matrix[:3, :3] / spacing)).flatten().tolist())
    image.SetOrigin((FLIP @ matrix[:3, 3]).tolist())
    return image


def _flatten(transform: Any) -> list[Any]:
    if transform.GetName() != "CompositeTransform":
        return [transform]
    composite = sitk.CompositeTransform(transform)
    parts = [composite.GetNthTransform(k) for k in range(composite.GetNumberOfTransforms())]
    return [flat for part in parts for flat in _flatten(part)]


def _from_itk(transform: Any, path: Path) -> Transform:
    name, count = transform.GetName(), transform.GetNumberOfParameters()
    if count != PARAMETERS.get(name, count):
        raise PatchMorphError(f"{name} must have {PARAMETERS[name]} parameters, got {count} in {path}")
    if transform.IsLinear():
        return _affine_from_itk(transform)
    if name != "DisplacementFieldTransform":
        raise PatchMorphError(f"transform must be affine or a displacement field, got {name} in {path}")
    return _field_from_itk(sitk.DisplacementFieldTransform(transform).GetDisplacementField())


def _field_from_itk(image: Any) -> DisplacementField:
    vectors = sitk.GetArrayFromImage(image).transpose(2, 1, 0, 3) * np.diag(FLIP)
    matrix = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    matrix[:3, :3] = FLIP @ direction * np.array(image.GetSpacing())
    matrix[:3, 3] = FLIP @ np.array(image.GetOrigin())
    return displacement_field(vectors, matrix)


def _affine_from_itk(transform: Any) -> AffineTransform:
    """Any linear transform of ITK, centred or not, from its values at the origin and the unit vectors."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(tuple(unit))) - origin for unit in np.eye(3)]
    matrix = np.eye(4)
    matrix[:3, :3] = FLIP @ np.stack(columns, axis=1) @ FLIP
    matrix[:3, 3] = FLIP @ origin
    return affine_transform(matrix)
