"""Coarser versions of a volume, without aliasing.

Each array axis is resampled by a small matrix of triangle weights whose half-width is the new spacing, so
the factor may be any real number and a level has exactly the requested spacing. A level shares the volume's
centre, so a volume and its mirror image have mirrored levels: the result does not depend on storage order.
"""

import functools
import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Num
from torch import Tensor

from patchmorph.spatial.affine import from_linear
from patchmorph.spatial.grid import Grid, Shape, VoxelBox, triple

SLAB_VOXELS = 2**22
"""Voxels that are read at a time (at least one slice)."""

KEEP_RATIO = 1.25
"""Ratio of the requested spacing to an axis's own spacing up to which that axis is not resampled."""


def level_spacing(spacing_mm: tuple[float, ...], wanted_mm: float) -> tuple[float, ...]:
    """Spacing along each axis of the level for ``wanted_mm``."""
    return tuple(wanted_mm if wanted_mm > KEEP_RATIO * own else own for own in spacing_mm)


def level_shape(shape: Shape, spacing_mm: tuple[float, ...], wanted_mm: float) -> Shape:
    """Voxels along each axis of the level for ``wanted_mm``."""
    level = level_spacing(spacing_mm, wanted_mm)
    return triple(
        _coarse_count(count, coarse / fine) if coarse > fine else count
        for count, fine, coarse in zip(shape, spacing_mm, level, strict=True)
    )


def downsample(
    read: Callable[[VoxelBox], Num[Tensor, "1 c x y z"]], grid: Grid, spacing_mm: tuple[float, ...]
) -> tuple[Float[Tensor, "1 c u v w"], Grid]:
    """Resample the volume on ``grid`` to ``spacing_mm`` (one value per array axis; the same or coarser).

    The volume is read in slabs along its first axis, so that only the result is held in memory as a whole.

    Args:
        read: returns the voxels of a box.
        grid: grid of the volume.
        spacing_mm: spacing of the result.
    """
    own = grid.spacing_mm[0].tolist()
    factors = [coarse / fine for coarse, fine in zip(spacing_mm, own, strict=True)]
    shape = triple(_coarse_count(n, f) if f > 1 else n for n, f in zip(grid.shape, factors, strict=True))
    weights = [
        _triangle_weights(n, f, grid.device) if f > 1 else None
        for n, f in zip(grid.shape, factors, strict=True)
    ]
    data = None
    thickness = max(1, SLAB_VOXELS // (grid.shape[1] * grid.shape[2]))
    for first in range(0, grid.shape[0], thickness):
        last = min(first + thickness, grid.shape[0])
        slab = read(VoxelBox((first, 0, 0), (last, *grid.shape[1:]))).float()
        for axis in (2, 1):
            slab = _weighted(slab, weights[axis], axis)
        if data is None:
            data = torch.zeros(1, slab.shape[1], *shape, device=slab.device)
        if weights[0] is None:
            data[:, :, first:last] = slab
        else:
            data += _weighted(slab, weights[0][:, first:last], 0)
    assert data is not None
    linear = torch.diag(torch.tensor(factors, dtype=torch.float64))
    offset = [
        (fine - 1) / 2 - factor * (coarse - 1) / 2
        for fine, factor, coarse in zip(grid.shape, factors, shape, strict=True)
    ]
    shift = torch.tensor(offset, dtype=torch.float64)
    return data, Grid(shape, grid.voxel_to_world @ from_linear(linear[None], shift[None]).to(grid.device))


def _weighted(
    data: Float[Tensor, "1 c x y z"], weights: Float[Tensor, "m n"] | None, axis: int
) -> Float[Tensor, "1 c u v w"]:
    """``data`` averaged along one array axis by the rows of ``weights``; unchanged if these are ``None``."""
    if weights is None:
        return data
    return (data.movedim(2 + axis, -1) @ weights.T).movedim(-1, 2 + axis)


def _coarse_count(count: int, factor: float) -> int:
    return max(1, math.ceil(count / factor - 1e-6))


@functools.lru_cache(maxsize=64)
def _triangle_weights(count: int, factor: float, device: torch.device) -> Float[Tensor, "m n"]:
    """Rows of weights, each summing to one, that average ``count`` voxels into ``ceil(count / factor)``."""
    coarse_count = _coarse_count(count, factor)
    centers = (count - 1) / 2 + factor * (
        torch.arange(coarse_count, dtype=torch.float64) - (coarse_count - 1) / 2
    )
    distance = (torch.arange(count, dtype=torch.float64) - centers[:, None]).abs()
    weights = (1 - distance / factor).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).to(device, torch.float32)
