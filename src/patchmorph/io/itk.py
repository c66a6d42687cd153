"""ITK composite transforms (``.h5``): what ANTs, SimpleITK and 3D Slicer read.

The only place that knows ITK's frame: LPS+ mm, so x and y of points and vectors change sign. A composite's
last transform acts first, which is our order of parts.
"""

import functools
import math
import operator
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch

from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import whole_file
from patchmorph.spatial.grid import Grid, triple
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform
from patchmorph.transforms.displacement import DisplacementField, InverseDisplacement
from patchmorph.transforms.velocity import InverseFlow, VelocityField

ENDING = ".h5"
REFINEMENT = 1.6
"""How much finer than its forward field an inverse is tabulated: it has detail where that one shrinks."""

InverseParts = InverseFlow | InverseDisplacement
LPS = np.diag([-1.0, -1.0, 1.0])


def save_transform(transform: Transform, path: str | Path) -> None:
    """Write ``transform`` as an ITK composite, exact to its own fields.

    Each velocity field becomes a displacement field on its own grid, so a coarse part stays small. Inverses
    of fields have no grid of their own: neighbours among them are tabulated together, on one a little finer
    than their finest. ITK takes a field for zero outside its grid; ours vanish at the rim
    (`patchmorph.patches.blending.rim`), so both agree there. A field that does not vanish at its rim is the
    same inside its grid only.

    Args:
        transform: affine maps, displacement and velocity fields, composed with ``@``.
        path: ends in ``.h5``.

    Raises:
        PatchMorphError: another ending, or the file system refuses.
    """
    path = Path(path)
    if path.suffix != ENDING:
        raise PatchMorphError(f"transform file must end in {ENDING}, got {path}")
    composite = sitk.CompositeTransform(3)
    for without_grid, parts in groupby(transform.parts(), lambda part: isinstance(part, InverseParts)):
        for part in [_tabulated(list(parts))] if without_grid else parts:
            composite.AddTransform(_to_itk(part))
    with whole_file(path) as temporary, _quiet_libraries():
        try:
            sitk.WriteTransform(composite, str(temporary))
        except RuntimeError as error:
            raise PatchMorphError(
                f"transform must be written whole, got {path}: no room or no right"
            ) from error


def load_transform(path: str | Path) -> Transform:
    """Read an ITK transform file of affine maps and displacement fields.

    Raises:
        PatchMorphError: no such file, no transform, not 3D, singular, or a kind of transform that is neither.
    """
    path = Path(path)
    if not path.is_file():
        raise PatchMorphError(f"transform must be an existing file, got {path}")
    try:
        with _quiet_libraries():
            transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise PatchMorphError(f"transform must be a file that ITK reads, got {path}: {reason}") from None
    if transform.GetDimension() != 3:
        raise PatchMorphError(f"transform must be 3D, got {transform.GetDimension()}D in {path}")
    parts = [_from_itk(part, path) for part in _flatten(transform)]
    return functools.reduce(operator.matmul, parts, AffineTransform.identity())


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep what C libraries print of a broken file off the terminal: the error says it in one line."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _to_itk(part: Transform) -> sitk.Transform:
    if isinstance(part, AffineTransform):
        matrix = part.matrix[0].cpu().numpy()
        affine = sitk.AffineTransform(3)
        affine.SetMatrix((LPS @ matrix[:3, :3] @ LPS).flatten().tolist())
        affine.SetTranslation((LPS @ matrix[:3, 3]).tolist())
        return affine
    field = part.flow if isinstance(part, VelocityField) else part
    assert isinstance(field, DisplacementField), f"{type(part).__name__} has no field"
    return sitk.DisplacementFieldTransform(_field_image(field))


def _tabulated(parts: Sequence[Transform]) -> DisplacementField:
    """Inverses of fields, composed, on one axis-aligned grid over all of them."""
    grids = [part.forward.grid for part in parts if isinstance(part, InverseParts)]
    corners = torch.cat([grid.corners_world()[0] for grid in grids])
    lower, upper = corners.amin(0), corners.amax(0)
    spacing = min(float(grid.spacing_mm.min()) for grid in grids) / REFINEMENT
    shape = triple(math.ceil(length / spacing) + 1 for length in (upper - lower).tolist())
    transform = functools.reduce(operator.matmul, parts)
    return DisplacementField.tabulate(transform, Grid.centered(shape, spacing, (lower + upper)[None] / 2))


def _field_image(field: DisplacementField) -> sitk.Image:
    vectors = field.displacement[0].permute(3, 2, 1, 0).cpu().double().numpy() * np.diag(LPS)
    image = sitk.GetImageFromArray(vectors, isVector=True)
    matrix = field.grid.voxel_to_world[0].cpu().numpy()
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((LPS @ (matrix[:3, :3] / spacing)).flatten().tolist())
    image.SetOrigin((LPS @ matrix[:3, 3]).tolist())
    return image


def _flatten(transform: sitk.Transform) -> list[sitk.Transform]:
    if transform.GetName() != "CompositeTransform":
        return [transform]
    composite = sitk.CompositeTransform(transform)
    parts = [composite.GetNthTransform(k) for k in range(composite.GetNumberOfTransforms())]
    return [flat for part in parts for flat in _flatten(part)]


def _from_itk(transform: sitk.Transform, path: Path) -> Transform:
    if transform.IsLinear():
        return _affine_from_itk(transform, path)
    if transform.GetName() != "DisplacementFieldTransform":
        raise PatchMorphError(
            f"transform must be affine or a displacement field, got {transform.GetName()} in {path}"
        )
    image = sitk.DisplacementFieldTransform(transform).GetDisplacementField()
    vectors = sitk.GetArrayFromImage(image) * np.diag(LPS)
    matrix = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    matrix[:3, :3] = LPS @ direction * np.array(image.GetSpacing())
    matrix[:3, 3] = LPS @ np.array(image.GetOrigin())
    displacement = torch.from_numpy(np.ascontiguousarray(vectors.transpose(3, 2, 1, 0), dtype=np.float32))[
        None
    ]
    grid = Grid(triple(displacement.shape[2:]), torch.from_numpy(matrix)[None])
    return DisplacementField(displacement, grid, outside="zeros")


def _affine_from_itk(transform: sitk.Transform, path: Path) -> AffineTransform:
    """Any linear transform of ITK, centred or not, by what it does to the origin and the unit vectors."""
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(tuple(unit))) - origin for unit in np.eye(3)]
    matrix = np.eye(4)
    matrix[:3, :3] = LPS @ np.stack(columns, axis=1) @ LPS
    matrix[:3, 3] = LPS @ origin
    if abs(np.linalg.det(matrix)) < 1e-9:
        raise PatchMorphError(f"transform must be invertible, got a singular matrix in {path}")
    return AffineTransform(torch.from_numpy(matrix)[None])
