"""Regularity of a map in the region that is compared: what a fold takes, and what an inverse gives back."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from patchmorph.evaluation.metrics import inverse_consistency_mm
from patchmorph.images.foreground import foreground
from patchmorph.images.windowed import Windowed
from patchmorph.registration.result import Registration
from patchmorph.spatial.grid import Grid, VoxelBox, triple
from patchmorph.transforms.base import Transform
from patchmorph.transforms.jacobian import folding

MAX_POINTS = 20_000
"""Points, evenly spread over the region, at which the inverse is tried."""


@dataclass(frozen=True)
class Regularity:
    """Figures of a map.

    Attributes:
        ndv_percent: non-diffeomorphic volume as a percentage of the volume of the region's cells (Liu et al.,
            IJCV 2024; see `patchmorph.transforms.jacobian.Folding`).
        inverse_consistency_mm: mean distance of φ⁻¹(φ(x)) from x in the region.
    """

    ndv_percent: float = math.nan
    inverse_consistency_mm: float = math.nan


def measure_regularity(registration: Registration, labels: Windowed | None) -> Regularity:
    """Measure a map in the fixed labels, or without labels in the fixed content; NaN where that is empty."""
    if labels is None:
        fixed = registration.fixed.overview.normalized()
        grid, inside = fixed.grid, foreground(fixed.values())[0, 0]
    else:
        grid, inside = labels.grid, labels.values()[0, 0] > 0
    return _in_region(registration.transform, registration.inverse, grid, inside)


@torch.no_grad()
def _in_region(
    transform: Transform, inverse: Transform, grid: Grid, inside: Bool[Tensor, "x y z"]
) -> Regularity:
    index = inside.nonzero()
    if not len(index):
        return Regularity()
    start, last = index.amin(0).tolist(), index.amax(0).tolist()
    stop = [min(end + 2, count) for end, count in zip(last, grid.shape, strict=True)]
    box = VoxelBox(triple(start), triple(stop))
    part = grid.crop(box.start, box.shape)
    folded = folding(transform, part, inside[box.slices])
    chosen = index[:: math.ceil(len(index) / MAX_POINTS)] - index.new_tensor(start)
    points = part.points_world()[0][chosen.unbind(-1)][None]
    return Regularity(100 * folded.volume_share, inverse_consistency_mm(transform, inverse, points))
