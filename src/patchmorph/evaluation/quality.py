"""Quality measures of a registration that need no labels, computed block by block."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.evaluation.metrics import Moments, log_jacobian
from patchmorph.images.foreground import foreground
from patchmorph.images.interpolation import interpolator
from patchmorph.images.volume import AbstractVolume, Image
from patchmorph.registration.result import Registration
from patchmorph.transforms.blocks import MappedBlock, mapped_blocks
from patchmorph.transforms.jacobian import determinant_of_map
from patchmorph.transforms.resample import resample_at


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
    measurement = _Measurement(registration, region)
    for _ in measurement.watched():
        pass
    return measurement.quality(warped)


@torch.no_grad()
def warp_and_measure(registration: Registration) -> tuple[Image, Quality]:
    """The warped image and the quality of a registration, from one evaluation of its map."""
    measurement = _Measurement(registration, None)
    warped = resample_at(registration.moving, measurement.watched(), registration.fixed.grid)
    return warped, measurement.quality(warped)


class _Measurement:
    """Sums over the blocks of the fixed grid."""

    def __init__(self, registration: Registration, region: AbstractVolume | None):
        self.transform, self.grid, self.region = registration.transform, registration.fixed.grid, region
        self.fixed = registration.fixed.normalized()
        moving = registration.moving.level(float(self.grid.spacing_mm.min()))
        self._unregistered = interpolator(moving, "linear")
        self._before, self._logs, self._folds = Moments(), Moments(), 0

    def watched(self) -> Iterator[MappedBlock]:
        """The mapped blocks of the grid, each measured as it passes."""
        for block in mapped_blocks(self.transform, self.grid, halo=1):
            values = self.fixed.read(block.box)
            content = foreground(values)
            inside = content if self.region is None else self.region.read(block.box) > 0
            inner = block.without_halo(1)
            if len(found := inside[0, 0].nonzero()):
                determinant = determinant_of_map(block.mapped[0, 1:, 1:, 1:], self.grid)[found.unbind(1)]
                self._folds += int((determinant <= 0).sum())
                log = log_jacobian(determinant)
                self._logs.add(log, log)
            if len(found := content[0, 0].nonzero()):
                at = found.unbind(1)
                _add(self._before, values[0, 0][at], self._unregistered(inner.points[0][at][None])[0, 0])
            yield inner

    def quality(self, warped: AbstractVolume) -> Quality:
        """The figures, after all blocks."""
        after = Moments()
        for box, values in self.fixed.blocks():
            content = foreground(values)
            _add(after, values[content], warped.read(box)[content].float())
        count = self._logs.count
        return Quality(
            self._before.correlation(),
            after.correlation(),
            100 * self._folds / count if count else math.nan,
            self._logs.deviation(),
        )


def _add(moments: Moments, first: Float[Tensor, " n"], second: Float[Tensor, " n"]) -> None:
    """Add pairs of values whose second one is known."""
    known = second.isfinite()
    whole = bool(known.all())
    moments.add(first if whole else first[known], second if whole else second[known])
