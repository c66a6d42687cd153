"""Quality measures of a registration that need no labels, computed block by block."""

import math
from dataclasses import dataclass

import torch

from patchmorph.evaluation.metrics import Moments, log_jacobian
from patchmorph.images.foreground import foreground
from patchmorph.images.interpolation import interpolator
from patchmorph.images.volume import AbstractVolume
from patchmorph.registration.result import Registration
from patchmorph.transforms.blocks import mapped_blocks
from patchmorph.transforms.jacobian import determinant_of_map


@dataclass(frozen=True)
class Quality:
    """Agreement of the images and regularity of the map.

    Attributes:
        similarity_before: correlation of intensities inside the fixed content, aligned by the headers alone.
        similarity_after: the same after registration.
        folding_percent: voxels with a Jacobian determinant ≤ 0 in the region of interest, by forward
            differences; NaN if the region is empty.
        sd_log_jacobian: standard deviation of the log-Jacobian in the region.
    """

    similarity_before: float
    similarity_after: float
    folding_percent: float
    sd_log_jacobian: float


@torch.no_grad()
def measure_quality(
    registration: Registration, warped: AbstractVolume, region: AbstractVolume | None = None
) -> Quality:
    """Measure the quality of one registration.

    Args:
        registration: what to measure.
        warped: its warped image.
        region: region of interest, positive inside, on the fixed grid; by default the fixed content.
    """
    grid = registration.fixed.grid
    fixed, spacing_mm = registration.fixed.normalized(), float(grid.spacing_mm.min())
    unregistered = interpolator(registration.moving.level(spacing_mm), "linear")
    before, after, logs, folds = Moments(), Moments(), Moments(), 0
    for block in mapped_blocks(registration.transform, grid, halo=1):
        values = fixed.read(block.box)
        content = foreground(values)
        inside = content if region is None else region.read(block.box) > 0
        determinant = determinant_of_map(block.mapped[0, 1:, 1:, 1:], grid)[inside[0, 0]]
        folds += int((determinant <= 0).sum())
        log = log_jacobian(determinant)
        logs.add(log, log)
        points = block.points[:, 1:-1, 1:-1, 1:-1]
        for moments, other in ((before, unregistered(points)), (after, warped.read(block.box).float())):
            seen = content & other.isfinite()
            moments.add(values[seen], other[seen])
    return Quality(
        before.correlation(),
        after.correlation(),
        100 * folds / logs.count if logs.count else math.nan,
        logs.deviation(),
    )
