"""Quality measures of a registration that need no labels, computed block by block."""

import math
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patchmorph.evaluation.metrics import Moments, log_jacobian
from patchmorph.images.foreground import foreground
from patchmorph.images.interpolation import interpolator
from patchmorph.images.volume import AbstractVolume, Image
from patchmorph.registration.result import Registration, fill_of
from patchmorph.spatial.grid import VoxelBox
from patchmorph.transforms.blocks import MappedBlock, over_blocks
from patchmorph.transforms.jacobian import determinant_of_map
from patchmorph.transforms.resample import Resampling


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
        warped: its warped image, on the grid of the fixed image's `overview`, which is its own in memory.
        region: region of interest, positive inside, on the fixed grid; by default the fixed content.
    """
    measurement = Measurement(registration, region)
    grid = measurement.grid
    blocks = over_blocks(lambda block: measurement.of(block, warped), registration.transform, grid, halo=1)
    return sum(blocks, Sums()).quality()


@torch.no_grad()
def warp_and_measure(registration: Registration) -> tuple[Image, Quality]:
    """The warped image and the quality of a registration, from one evaluation of its map.

    Of a fixed image that is not in memory, both are on the grid of its `overview`.
    """
    measurement = Measurement(registration, None)
    grid = measurement.grid
    resampled = Resampling(registration.moving, grid, background=fill_of(registration.moving))

    def fill_and_measure(block: MappedBlock) -> Sums:
        resampled.fill(block.without_halo(1))
        return measurement.of(block, resampled.image)

    blocks = over_blocks(fill_and_measure, registration.transform, grid, halo=1)
    return resampled.image, sum(blocks, Sums()).quality()


@dataclass(frozen=True)
class Sums:
    """What `Measurement` sums over the blocks of the fixed grid.

    Attributes:
        before: intensities of the fixed image and of the moving image, aligned by the headers alone.
        after: intensities of the fixed image and of the warped image.
        logs: log-Jacobians.
        folds: voxels with a Jacobian determinant ≤ 0.
    """

    before: Moments = field(default_factory=Moments)
    after: Moments = field(default_factory=Moments)
    logs: Moments = field(default_factory=Moments)
    folds: int = 0

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(
            self.before + other.before,
            self.after + other.after,
            self.logs + other.logs,
            self.folds + other.folds,
        )

    def quality(self) -> Quality:
        """The figures of these sums."""
        return Quality(
            self.before.correlation(),
            self.after.correlation(),
            100 * self.folds / self.logs.count if self.logs.count else math.nan,
            self.logs.deviation(),
        )


class Measurement:
    """Measures blocks of the fixed grid, mapped with a halo of one voxel; several at a time.

    Args:
        registration: what to measure.
        region: see `measure_quality`.

    Attributes:
        grid: of the fixed image's `overview`.
    """

    def __init__(self, registration: Registration, region: AbstractVolume | None):
        fixed = registration.fixed.overview
        self.grid, self.region, self.fixed = fixed.grid, region, fixed.normalized()
        self._spacing_mm = float(self.grid.spacing_mm.min())
        self._moving = registration.moving.level(self._spacing_mm)
        self._unregistered = interpolator(self._moving, "linear")

    def inside(self, box: VoxelBox) -> Bool[Tensor, "1 1 x y z"]:
        """Which voxels of a box are in the region."""
        if self.region is None:
            return foreground(self.fixed.read(box))
        return self.region.read(box) > 0

    @torch.no_grad()
    def of(self, block: MappedBlock, warped: AbstractVolume) -> Sums:
        """The sums over a block."""
        values = self.fixed.read(block.box)
        content = foreground(values)
        inside = content if self.region is None else self.inside(block.box)
        before, after, logs, folds = Moments(), Moments(), Moments(), 0
        if inside.any():
            cells = determinant_of_map(block.mapped[0, 1:, 1:, 1:], self.grid)
            determinant = cells.masked_select(inside[0, 0])
            folds = int((determinant <= 0).sum())
            log = log_jacobian(determinant)
            logs.add(log, log)
        if content.any():
            fixed = values.masked_select(content)
            _add(before, fixed, self._before(block.without_halo(1)).masked_select(content))
            _add(after, fixed, warped.read(block.box)[:, :1].masked_select(content).float())
        return Sums(before, after, logs, folds)

    def _before(self, block: MappedBlock) -> Float[Tensor, "1 1 x y z"]:
        """The moving image at the points of a block, unmoved; axis by axis where it is finite."""
        found = self._moving.sample_grid(block.grid, self._spacing_mm)
        return found[:, :1] if found.isfinite().all() else self._unregistered(block.points)[:, :1]


def _add(moments: Moments, first: Float[Tensor, " n"], second: Float[Tensor, " n"]) -> None:
    """Add pairs of values whose second one is known."""
    known = second.isfinite()
    whole = bool(known.all())
    moments.add(first if whole else first[known], second if whole else second[known])
