"""One registration measured with its labels, from one evaluation of its map."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.labels import PairLabels
from patchmorph.evaluation.metrics import inverse_consistency_mm
from patchmorph.evaluation.quality import Measurement, Quality, Sums
from patchmorph.images.volume import Image
from patchmorph.registration.result import Registration, fill_of
from patchmorph.spatial.affine import apply_affine
from patchmorph.spatial.grid import Grid, VoxelBox
from patchmorph.transforms.blocks import MappedBlock, over_blocks
from patchmorph.transforms.jacobian import InvertedCells, inverted_cells
from patchmorph.transforms.resample import Resampling

MAX_POINTS = 20_000
"""Points, evenly spread over the region, at which the inverse is tried."""


@dataclass(frozen=True)
class Measured:
    """What a registration gives on the grid of the fixed image's `overview`, its own in memory.

    Attributes:
        warped: the moving image.
        quality: agreement of the images and regularity of the map.
        fixed_labels: labels of the fixed image, where both images have some.
        warped_labels: those of the moving image (nearest neighbour).
        ndv_percent: non-diffeomorphic volume as a percentage of the volume of the region's cells (Liu et al.,
            IJCV 2024; see `patchmorph.transforms.jacobian.Folding`).
        inverse_consistency_mm: mean distance of φ⁻¹(φ(x)) from x in the region.
    """

    warped: Image
    quality: Quality
    fixed_labels: Image | None = None
    warped_labels: Image | None = None
    ndv_percent: float = math.nan
    inverse_consistency_mm: float = math.nan

    @property
    def ids(self) -> tuple[Int[Tensor, "x y z"], Int[Tensor, "x y z"]] | None:
        """The labels of both images as whole numbers."""
        if self.fixed_labels is None or self.warped_labels is None:
            return None
        return self.fixed_labels.values()[0, 0].long(), self.warped_labels.values()[0, 0].long()


@torch.no_grad()
def measure_map(registration: Registration, labels: PairLabels, in_detail: bool = False) -> Measured:
    """Measure a registration in the fixed labels, or without labels in the fixed content.

    Args:
        registration: what to measure.
        labels: used if both images have some.
        in_detail: whether the last two figures are measured, too; NaN where the region is empty.

    Raises:
        PatchMorphError: fixed labels outside their image.
    """
    grid, device = registration.fixed.overview.grid, registration.fixed.grid.device
    fixed, moving = None, None
    resampled = [Resampling(registration.moving, grid, background=fill_of(registration.moving))]
    if labels.fixed is not None and labels.moving is not None:
        fixed, moving = labels.fixed_on(grid), Resampling(labels.moving.to(device), grid, "nearest")
        resampled.append(moving)
        if not (fixed.values() > 0).any():
            raise PatchMorphError(
                f"labels must lie inside their image, got none there in {labels.fixed.name}"
            )
    measurement = Measurement(registration, fixed)

    def fill_and_measure(block: MappedBlock) -> tuple[Sums, InvertedCells]:
        inner = block.without_halo(1)
        for image in resampled:
            image.fill(inner)
        cells = _cells(block, grid, measurement.inside(block.box)) if in_detail else InvertedCells()
        return measurement.of(block, resampled[0].image), cells

    sums, cells = Sums(), InvertedCells()
    for one, inverted in over_blocks(fill_and_measure, registration.transform, grid, halo=1):
        sums, cells = sums + one, cells.plus(inverted)
    inside = measurement.inside(VoxelBox((0, 0, 0), grid.shape))[0, 0] if in_detail else None
    return Measured(
        resampled[0].image,
        sums.quality(),
        fixed,
        None if moving is None else moving.image,
        100 * cells.volume / cells.cells if cells.cells else math.nan,
        math.nan if inside is None else _round_trip_mm(registration, grid, inside),
    )


def _cells(block: MappedBlock, grid: Grid, inside: Bool[Tensor, "1 1 x y z"]) -> InvertedCells:
    """Inverted cells of a block whose first corner is inside; the last voxels of the grid have none."""
    region = inside[0, 0]
    for axis, stop in enumerate(block.box.stop):
        if stop == grid.shape[axis]:
            region.select(axis, -1).fill_(False)
    if not region.any():
        return InvertedCells()
    return inverted_cells(block.mapped[0, 1:, 1:, 1:], grid, region)


def _round_trip_mm(registration: Registration, grid: Grid, inside: Bool[Tensor, "x y z"]) -> float:
    index = inside.nonzero()
    if not len(index):
        return math.nan
    chosen = index[:: math.ceil(len(index) / MAX_POINTS)]
    points = apply_affine(grid.voxel_to_world, chosen[None].float())
    return inverse_consistency_mm(registration.transform, registration.inverse, points)
