"""Resampling of a volume through a transform onto a grid."""

import math
from collections import deque
from collections.abc import Iterable

import torch
from torch import Tensor

from patchmorph.images.interpolation import SMOOTH, interpolator
from patchmorph.images.volume import AbstractVolume, Image
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.sampling import Interpolation
from patchmorph.transforms.base import Transform
from patchmorph.transforms.blocks import MappedBlock, over_blocks
from patchmorph.workers import in_order


def resample(
    image: AbstractVolume,
    transform: Transform,
    grid: Grid,
    interpolation: Interpolation = "linear",
    background: int | float = 0,
) -> Image:
    """``image(transform(x))`` at every point x of ``grid``.

    Args:
        image: the volume to resample, at its own resolution.
        transform: maps ``grid``'s world to ``image``'s world.
        grid: grid of batch size one, on the same device.
        interpolation: ``linear`` or ``cubic`` (B-splines) for intensities, without detail that ``grid``
            cannot represent; ``nearest`` or ``label`` (largest trilinear weight) keep label values. The
            dtype is kept: values are rounded and clamped to the range of an integer dtype.
        background: value outside ``image``.

    Returns:
        The resampled image on ``grid``.
    """
    resampled = Resampling(image, grid, interpolation, background)
    deque(over_blocks(resampled.fill, transform, grid), maxlen=0)
    return resampled.image


LARGEST_BELOW_INT64 = 2**63 - 2**10
"""The largest float64 that int64 can hold."""


def resample_at(
    image: AbstractVolume,
    blocks: Iterable[MappedBlock],
    grid: Grid,
    interpolation: Interpolation = "linear",
    background: int | float = 0,
) -> Image:
    """`resample` at mapped blocks, which may be used for several images."""
    resampled = Resampling(image, grid, interpolation, background)
    deque(in_order(resampled.fill, blocks, grid.device), maxlen=0)
    return resampled.image


class Resampling:
    """An image that is resampled block by block, in any order and in several threads; see `resample`.

    Attributes:
        image: the resampled image, whose voxels are undefined where no block has been filled.
    """

    def __init__(
        self,
        image: AbstractVolume,
        grid: Grid,
        interpolation: Interpolation = "linear",
        background: int | float = 0,
    ):
        source = image.level(float(grid.spacing_mm.min())) if interpolation in SMOOTH else image
        self._interpolate, self._background = interpolator(source, interpolation, background), background
        voxels = torch.empty((1, image.channels, *grid.shape), dtype=image.dtype, device=grid.device)
        self.image = Image(voxels, grid, image.name)

    @torch.no_grad()
    def fill(self, block: MappedBlock) -> None:
        """Compute the voxels of a block without halo."""
        values = self._interpolate(block.mapped)
        self.image.data[(..., *block.box.slices)] = _fitted(values, self.image.dtype, self._background)


def _fitted(values: Tensor, dtype: torch.dtype, background: int | float) -> Tensor:
    """``values`` in ``dtype``; for an integer type rounded, clamped to its range, NaN as ``background``."""
    if dtype.is_floating_point or not values.is_floating_point():
        return values
    if dtype == torch.bool:
        return values > 0.5
    limits = torch.iinfo(dtype)
    exact = values if limits.bits <= 16 else values.double()  # float32 cannot represent the largest int32
    exact = exact.nan_to_num(background if math.isfinite(background) else 0).round()
    below = min(limits.max, LARGEST_BELOW_INT64)  # the largest int64 itself is no float64
    return torch.where(exact > below, limits.max, exact.clamp(limits.min, below).to(dtype))
