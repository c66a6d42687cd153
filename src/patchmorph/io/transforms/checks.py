"""What every transform that was read must be: finite, invertible, of plausible size and consistent.

A reader converts a file; whether the result can be a map between images is checked here, for all formats.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.displacement import DisplacementField, InverseDisplacement
from patchmorph.transforms.gaps import Gaps
from patchmorph.transforms.velocity import InverseFlow, VelocityField

MAX_SCALE = 2000.0
"""Largest scale of an affine map along any direction, and its inverse the smallest: a change of unit by 1000
between brains of which one is twice as large."""
MAX_SPACING = 1e5
"""Likewise for the spacing of a field's grid: 10 nm to 100 m."""
MAX_SHIFT_MM = 1e5
"""Largest displacement or translation: 100 m, above any image even in micrometres that are taken for mm."""
MAX_STEPS = 16
"""Largest number of squarings: 65 536 steps of a flow."""


def checked(transform: Transform, path: Path) -> Transform:
    """``transform``, if each of its parts can be a map between images.

    Raises:
        PatchMorphError: a part is not finite, singular, absurdly large or inconsistent; the part is named.
    """
    parts = transform.parts()
    for number, part in enumerate(parts, 1):
        where = f"part {number} of {len(parts)} of {path}" if len(parts) > 1 else str(path)
        for complaint in _complaints(part):
            raise PatchMorphError(f"{complaint} in {where}")
    return transform


def _complaints(part: Transform) -> Iterator[str]:
    if isinstance(part, InverseFlow | InverseDisplacement):
        part = part.forward
    if isinstance(part, AffineTransform):
        yield from _of_matrix(part.matrix)
    elif isinstance(part, VelocityField):
        yield from _of_field("velocity", part.velocity, part.grid)
        yield from _of_integration(part)
    elif isinstance(part, DisplacementField):
        yield from _of_field("displacement", part.displacement, part.grid)
    elif isinstance(part, Gaps):
        yield from _of_grid(part.missing, 1, part.grid)
        if part.missing.all():
            yield "displacement field must have values, got NaN in every voxel"


def _of_matrix(matrix: Tensor, most: float = MAX_SCALE) -> Iterator[str]:
    if tuple(matrix.shape) != (1, 4, 4):
        yield f"affine must be one matrix of 4 by 4, got shape {tuple(matrix.shape)}"
    if not matrix.isfinite().all():
        yield f"affine must be finite, got {float(matrix[~matrix.isfinite()][0])}"
    if not torch.allclose(matrix[0, 3], matrix.new_tensor([0, 0, 0, 1]), rtol=0, atol=1e-6):
        yield f"affine must end in the row 0 0 0 1, got {_numbers(matrix[0, 3])}"
    scales = torch.linalg.svdvals(matrix[0, :3, :3])
    if scales[2] * most < 1:
        yield f"affine must be invertible and scale by at least {1 / most:g}, got {_numbers(scales)}"
    if scales[0] > most:
        yield f"affine must scale by at most {most:g}, got {_numbers(scales)}"
    if (shift := float(matrix[0, :3, 3].abs().max())) > MAX_SHIFT_MM:
        yield f"translation must be at most {MAX_SHIFT_MM:g} mm, got {shift:g} mm"


def _of_field(what: str, vectors: Tensor, grid: Grid) -> Iterator[str]:
    yield from _of_grid(vectors, 3, grid)
    largest = float(vectors.abs().max())  # NaN where any value is
    if not largest <= MAX_SHIFT_MM:
        at = (~(vectors.abs().amax(1)[0] <= MAX_SHIFT_MM)).nonzero()[0].tolist()
        limit = f"{what} must be finite and at most {MAX_SHIFT_MM:g} mm"
        yield f"{limit}, got {_numbers(vectors[0, :, at[0], at[1], at[2]])} at voxel {tuple(at)}"


def _of_grid(values: Tensor, channels: int, grid: Grid) -> Iterator[str]:
    if tuple(values.shape) != (1, channels, *grid.shape) or min(grid.shape) < 1:
        yield f"field must have {channels} numbers a voxel of {grid.shape}, got shape {tuple(values.shape)}"
    for complaint in _of_matrix(grid.voxel_to_world, MAX_SPACING):
        yield f"grid of the field: {complaint}"


def _of_integration(field: VelocityField) -> Iterator[str]:
    if isinstance(field.steps, bool) or not isinstance(field.steps, int) or not 0 <= field.steps <= MAX_STEPS:
        yield f"steps must be a whole number from 0 to {MAX_STEPS}, got {field.steps!r}"
    if field.variance is not None:
        yield from _of_grid(field.variance, 1, field.grid)
        if not (field.variance >= 0).all() or not field.variance.isfinite().all():
            yield "variance must be finite and not negative, got other numbers"


def _numbers(values: Tensor) -> str:
    return " ".join(f"{value:.4g}" for value in values.tolist())
