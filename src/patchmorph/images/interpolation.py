"""Interpolation of volumes by the four methods that a user may choose."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from patchmorph.images.volume import AbstractVolume
from patchmorph.spatial.bsplines import spline_coefficients
from patchmorph.spatial.sampling import (
    Interpolation,
    sample_cubic,
    sample_label,
    sample_linear,
    sample_nearest,
)

SPLINE_MARGIN = 16
"""Voxels around points that their coefficients depend on: the filter decays by 0.27 a voxel, to 1e-9."""

SMOOTH: tuple[Interpolation, ...] = ("linear", "cubic")
"""Interpolations that compute new values; the others keep label values."""


def interpolator(
    volume: AbstractVolume, interpolation: Interpolation, background: int | float = 0
) -> Callable[[Tensor], Tensor]:
    """The function from points ``[1, ..., 3]`` (RAS+ mm) to values ``[1, C, ...]``.

    Args:
        volume: the volume at the resolution to interpolate.
        interpolation: ``cubic`` computes the spline coefficients of the whole volume once, or those around
            the points if the volume is not in memory.
        background: value outside the volume.
    """
    if interpolation == "cubic" and not volume.in_memory:
        return lambda points: _cubic(volume, points, background)
    if interpolation == "cubic":
        coefficients = spline_coefficients(volume.values())
        return lambda points: sample_cubic(coefficients, volume.grid.to_voxel(points), background)
    if interpolation == "linear":
        return lambda points: _linear(volume, points, background)
    sample = {"nearest": sample_nearest, "label": sample_label}[interpolation]

    def lookup(points: Tensor) -> Tensor:
        values, grid = volume.around(points)
        return sample(values, grid.to_voxel(points), background)

    return lookup


def _cubic(volume: AbstractVolume, points: Tensor, background: int | float) -> Tensor:
    box = volume.grid.box_around(points, SPLINE_MARGIN)
    if box.is_empty:
        return torch.full((1, volume.channels, *points.shape[1:-1]), float(background), device=points.device)
    part = volume.grid.crop(box.start, box.shape)
    return sample_cubic(spline_coefficients(volume.read(box)), part.to_voxel(points), background)


def _linear(volume: AbstractVolume, points: Tensor, background: int | float) -> Tensor:
    values, grid = volume.around(points)
    values, to_voxel = values.float(), grid.world_to_voxel
    if not math.isfinite(background):  # values cannot be blended with NaN or infinity
        inside = sample_linear(torch.ones_like(values), points, "zeros", to_voxel) > 0.5
        return torch.where(inside, sample_linear(values, points, "border", to_voxel), background)
    if not background:
        return sample_linear(values, points, "zeros", to_voxel)
    return sample_linear(values - background, points, "zeros", to_voxel).add_(background)
