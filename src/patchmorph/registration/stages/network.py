"""Stages that ask a network.

The functions at the top turn a network's output into a residual; they serve these stages and training alike.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from patchmorph.images.foreground import foreground
from patchmorph.networks.contract import VELOCITY_STRIDE, Precision, predict
from patchmorph.patches.blending import Blend, rim, smooth
from patchmorph.patches.extraction import extract, extract_pair, matrix_to_world, velocity_to_world
from patchmorph.patches.lattice import PatchLattice
from patchmorph.progress import advance, step
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.stages.base import Stage
from patchmorph.spatial.affine import exponential
from patchmorph.spatial.grid import Grid, VoxelIndex, cube
from patchmorph.transforms.base import AffineTransform, Transform, compose
from patchmorph.transforms.steps import rounded
from patchmorph.transforms.velocity import VelocityField, merged
from patchmorph.workers import in_order, one_core

TRUNCATED_PASSES = 3
"""Factor on the passes of an affine network where an image is truncated: the pose is worse then."""

CONTENT_MARGIN = 3
"""Velocity voxels around the content that still count as content: as far as a flow may leave it."""

CORRECTION_VARIANCE = 0.1
"""Part of the square of a last correction that counts as its variance (docs/decisions/008)."""

BATCH, CUDA_BATCH, MAX_MERGED = 4, 12, 64
"""Patches that a network computes at a time, on a CPU and on CUDA, and for which images are sampled at a time
on CUDA, at most. There, batches are filled up, so that one recording serves all (`networks.replay`)."""

VARIANCE_SMOOTHINGS = 8
"""Passes of a kernel of 0.7 voxels that average the variance: it comes from a few predictions a point."""


def affine_residual(
    network: nn.Module, pair: Float[Tensor, "b 2 n n n"], patch: Grid, precision: Precision, symmetric: bool
) -> AffineTransform:
    """The affine map of the world that a network predicts between the patches of ``pair``."""
    matrix = exponential(predict(network, pair, precision, symmetric).double())
    return AffineTransform(matrix_to_world(matrix, patch))


def patch_velocity(
    network: nn.Module, pair: Float[Tensor, "b 2 n n n"], frame: Grid, precision: Precision, symmetric: bool
) -> Float[Tensor, "b 3 m m m"]:
    """The velocity (mm, world axes) that a network predicts in patches with the voxels of ``frame``."""
    return velocity_to_world(predict(network, pair, precision, symmetric), frame)


def velocity_variance(blend: Blend) -> Float[Tensor, "1 1 x y z"]:
    """Variance (mm²) of the blended predictions of a last stage (docs/decisions/008).

    Overlapping patches show another context of the same point, and where the images leave no choice, their
    predictions agree. The much larger patches of the stage before disagree by the correction.
    """
    variance = blend.variance() + CORRECTION_VARIANCE * blend.velocity().square().sum(1, keepdim=True)
    for _ in range(VARIANCE_SMOOTHINGS):
        variance = smooth(variance, 0.7)
    return variance


@dataclass(frozen=True)
class AffineNetworkStage(Stage):
    """Applies an affine network several times to one patch over the whole content.

    Attributes:
        network: affine network (see `patchmorph.networks.contract`).
        spacing_mm: voxel size of the patch.
        patch_size: voxels along each side of the patch.
        passes: applications of the network, each on what the one before left.
        precision: see `patchmorph.networks.contract`.
        symmetric: average the predictions for both directions.
    """

    network: nn.Module
    spacing_mm: float
    patch_size: int
    passes: int
    precision: Precision = "bf16"
    symmetric: bool = False

    @property
    def label(self) -> str:
        """What is done."""
        return "affine network"

    def refine(self, pair: PreparedPair, transform: Transform) -> Transform:
        """``transform @ affine``."""
        patch = Grid.centered(cube(self.patch_size), self.spacing_mm, pair.fixed.content.center_world)
        with one_core():
            for _ in range(self.passes * (TRUNCATED_PASSES if pair.is_truncated else 1)):
                images = extract_pair(pair.fixed.image, pair.moving.image, patch, self.spacing_mm, transform)
                transform = transform @ affine_residual(
                    self.network, images, patch, self.precision, self.symmetric
                )
        return transform


@dataclass(frozen=True)
class DenseNetworkStage(Stage):
    """Applies a dense network to every patch of a lattice and blends the predictions into one velocity field.

    Attributes:
        network: dense network (see `patchmorph.networks.contract`).
        spacing_mm: voxel size of the patches.
        patch_size: voxels along each side of a patch.
        overlap: fraction of a patch that its neighbour covers too, at least.
        smoothing: standard deviation of the kernel that smooths the blended velocity, in its voxels.
        steps: squarings when the velocity is integrated.
        jitter: draws a random shift of the inner patches; ``None``: a regular lattice.
        skip_empty: leave out patches that hold no content of the fixed image.
        precision: see `patchmorph.networks.contract`.
        symmetric: average the predictions for both directions.
        with_variance: let the velocity carry its `velocity_variance`.
    """

    network: nn.Module
    spacing_mm: float
    patch_size: int
    overlap: float
    smoothing: float
    steps: int
    jitter: torch.Generator | None = None
    skip_empty: bool = True
    precision: Precision = "bf16"
    symmetric: bool = False
    with_variance: bool = False

    @property
    def label(self) -> str:
        """What is done."""
        return f"network on patches of {self.spacing_mm:.3g} mm"

    def refine(self, pair: PreparedPair, transform: Transform) -> Transform:
        """``transform @ exp(velocity)``; one velocity where the last pass of this scale left another."""
        content = pair.fixed.content
        width, spacing_mm = self.patch_size // VELOCITY_STRIDE, self.spacing_mm * VELOCITY_STRIDE
        lattice = PatchLattice.cover(content.box_world, spacing_mm, width, self.overlap, self.jitter)
        blend, rows = Blend(lattice), list(self._rows(pair, lattice))
        predict = functools.partial(self._predicted, pair, transform, lattice)
        with step("patches", sum(map(len, rows))) as patches:
            concurrent = getattr(self.network, "is_static", False)  # others may keep a state
            for row in in_order(predict, rows, lattice.grid.device) if concurrent else map(predict, rows):
                for starts, velocities in row:
                    blend.add(starts, velocities)
                    advance(patches, len(starts))
        block, grid = lattice.trim(content.box_world)
        velocity = smooth(blend.velocity(), self.smoothing)[:, :, *block]
        fade = rim(grid.shape, max(1, int(content.margin_mm / spacing_mm)), grid.device)
        variance = velocity_variance(blend)[:, :, *block] if self.with_variance else None
        velocity = rounded(velocity * fade)
        return _followed(transform, VelocityField(velocity, grid, self.steps, variance, spline=True))

    def _predicted(
        self, pair: PreparedPair, transform: Transform, lattice: PatchLattice, row: Sequence[VoxelIndex]
    ) -> list[tuple[Sequence[VoxelIndex], Float[Tensor, "b 3 m m m"]]]:
        """The velocities of patches, in batches with their places in the lattice.

        Images are sampled once for all of them, since they overlap.
        """
        batch, found = CUDA_BATCH if lattice.grid.device.type == "cuda" else BATCH, []
        origin, region = lattice.region(row, VELOCITY_STRIDE)
        images = extract_pair(pair.fixed.image, pair.moving.image, region, self.spacing_mm, transform)
        for first in range(0, len(row), batch):
            starts = row[first : first + batch]
            blocks = [lattice.block(start, origin, VELOCITY_STRIDE) for start in starts]
            if batch == CUDA_BATCH and len(row) > 1:
                blocks += blocks[-1:] * (batch - len(blocks))
            patches = torch.stack([images[(0, slice(None), *block)] for block in blocks])
            velocities = patch_velocity(self.network, patches, region, self.precision, self.symmetric)
            found.append((starts, velocities[: len(starts)]))
        return found

    def _rows(self, pair: PreparedPair, lattice: PatchLattice) -> Iterable[Sequence[VoxelIndex]]:
        """The patches that are computed, in rows whose images are sampled at once."""
        mask = self._occupied(pair, lattice) if self.skip_empty else None
        rows = (
            [start for start in row if mask is None or mask[lattice.block(start)].any()]
            for row in lattice.rows
        )
        if lattice.grid.device.type == "cuda":
            return merged_rows(filter(None, rows), MAX_MERGED)
        return [list(along) for row in rows for _, along in groupby(row, lambda start: start[:2])]

    def _occupied(self, pair: PreparedPair, lattice: PatchLattice) -> np.ndarray:
        """Where in the lattice, ``[X, Y, Z]``, there is content of the fixed image or some not far away."""
        values = extract(pair.fixed.image, lattice.grid, self.spacing_mm * VELOCITY_STRIDE)
        near = foreground(values).float()
        for axis in range(3):  # one after the other, which takes a fifth of the time
            size, margin = [1, 1, 1], [0, 0, 0]
            size[axis], margin[axis] = 2 * CONTENT_MARGIN + 1, CONTENT_MARGIN
            near = functional.max_pool3d(near, size, 1, margin)
        return near[0, 0].bool().cpu().numpy()


def merged_rows(rows: Iterable[Sequence[VoxelIndex]], most: int) -> Iterator[Sequence[VoxelIndex]]:
    """Consecutive rows as one, of at most ``most`` patches unless a single row has more."""
    merged: list[VoxelIndex] = []
    for row in rows:
        if merged and len(merged) + len(row) > most:
            yield merged
            merged = []
        merged += row
    if merged:
        yield merged


def _followed(transform: Transform, residual: VelocityField) -> Transform:
    """``transform @ residual``, merged with a last velocity on the same grid."""
    *before, last = transform.parts()
    if before and isinstance(last, VelocityField) and last.grid.equals(residual.grid):
        return compose(*before, merged(last, residual))
    return transform @ residual
