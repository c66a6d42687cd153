"""Coarser versions of a volume, without aliasing.

Each axis is resampled by a small matrix of triangle weights as wide as the new spacing, so the factor may be
any real number and a level has exactly the spacing that was asked for. The level shares the volume's
centre, hence a volume and its mirror image have mirrored levels: storage order changes nothing.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.affine import from_linear
from patchmorph.spatial.grid import Grid, Shape, triple

KEEP_RATIO = 1.25
"""An axis whose spacing is within this ratio of the wanted one, or coarser, stays as it is."""


def level_spacing(spacing_mm: tuple[float, ...], wanted_mm: float) -> tuple[float, ...]:
    """Spacing along each axis of the level that serves ``wanted_mm``."""
    return tuple(wanted_mm if wanted_mm > KEEP_RATIO * own else own for own in spacing_mm)


def level_shape(shape: Shape, spacing_mm: tuple[float, ...], wanted_mm: float) -> Shape:
    """Voxels along each axis of the level that serves ``wanted_mm``."""
    level = level_spacing(spacing_mm, wanted_mm)
    return triple(
        _coarse_count(count, coarse / fine) if coarse > fine else count
        for count, fine, coarse in zip(shape, spacing_mm, level, strict=True)
    )


def downsample(
    data: Float[Tensor, "1 c x y z"], grid: Grid, spacing_mm: tuple[float, ...]
) -> tuple[Float[Tensor, "1 c u v w"], Grid]:
    """Resample ``data`` on ``grid`` to ``spacing_mm`` (one value an array axis; the same or coarser)."""
    own = grid.spacing_mm[0].tolist()
    scale, offset = [], []
    for axis, (fine, coarse) in enumerate(zip(own, spacing_mm, strict=True)):
        count = data.shape[2 + axis]
        factor = coarse / fine
        if coarse > fine:
            weights = _triangle_weights(count, factor).to(data)
            data = (data.movedim(2 + axis, -1) @ weights.T).movedim(-1, 2 + axis)
        scale.append(factor)
        offset.append((count - 1) / 2 - factor * (data.shape[2 + axis] - 1) / 2)
    device = grid.device
    linear = torch.diag(torch.tensor(scale, dtype=torch.float64, device=device))
    shift = torch.tensor(offset, dtype=torch.float64, device=device)
    level = Grid(triple(data.shape[2:]), grid.voxel_to_world @ from_linear(linear[None], shift[None]))
    return data.contiguous(), level


def _coarse_count(count: int, factor: float) -> int:
    return max(1, math.ceil(count / factor - 1e-6))


def _triangle_weights(count: int, factor: float) -> Float[Tensor, "m n"]:
    """Rows of weights (summing to one) that average ``count`` voxels into ``ceil(count / factor)``."""
    coarse_count = _coarse_count(count, factor)
    centers = (count - 1) / 2 + factor * (
        torch.arange(coarse_count, dtype=torch.float64) - (coarse_count - 1) / 2
    )
    distance = (torch.arange(count, dtype=torch.float64) - centers[:, None]).abs()
    weights = (1 - distance / factor).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)
