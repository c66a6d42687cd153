"""Stages that ask a network.

The functions at the top turn a network's output into a residual; they serve these stages and training alike.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from patchmorph.heap import return_freed_memory
from patchmorph.images.foreground import foreground
from patchmorph.memory import FREED_SHARE, memory_limit
from patchmorph.networks.batches import PATCH_VOXELS, Batches
from patchmorph.networks.contract import VELOCITY_STRIDE, Precision, device_of, predict
from patchmorph.patches.blending import Blend, smooth
from patchmorph.patches.detail import detail
from patchmorph.patches.extraction import (
    FixedPatch,
    extract,
    extract_pair,
    matrix_to_world,
    velocity_to_world,
)
from patchmorph.patches.lattice import PatchLattice, fitted_patch
from patchmorph.patches.rows import LATTICE_ORDER, Row, divided, lines, merged_rows, shortened, swept
from patchmorph.progress import advance, step
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.stages.base import Stage
from patchmorph.spatial.affine import exponential
from patchmorph.spatial.grid import Grid, Shape, VoxelIndex, cube, triple
from patchmorph.transforms.base import AffineTransform, Transform, compose
from patchmorph.transforms.steps import to_whole_steps
from patchmorph.transforms.velocity import FLOW_DEGREE, VelocityField, merged
from patchmorph.workers import in_order, one_core

TRUNCATED_PASSES = 3
"""Factor on the passes of an affine network where an image is truncated: the pose is worse then."""

FADE = 2
"""Velocity voxels beyond the content over which a velocity falls to zero where patches fit the content, at
most: they cover no more."""

OCCUPIED_SIDE = 128
"""Velocity voxels along each side of the blocks in which content is sought."""

CONTENT_MARGIN = 3
"""Velocity voxels around the content that still count as content: as far as a flow may leave it."""

CORRECTION_VARIANCE = 0.1
"""Part of the square of a last correction that counts as its variance (docs/decisions/008)."""

MAX_MERGED = 64
"""Patches of `PATCH_VOXELS` for which images are sampled at a time on CUDA, at most; fewer of larger ones."""

SAMPLING_SHARE = 64
"""Part of the memory that the images of a line of patches may take while they are sampled, as one over this
number, whatever the number of cores, each of which samples one: results do not depend on it. Longer lines are
sampled in parts."""

ROWS_KEPT = 16
"""Rows of patches after which memory of freed arrays is returned to the system where it is much."""

VOXEL_BYTES = 72
"""Memory of a voxel of a line while it is sampled: points, mapped points and what both are computed from."""

FEW = 16
"""Patches up to which images are sampled for each by itself on a CPU, so that every core has some."""

VARIANCE_SMOOTHINGS = 8
"""Passes of a kernel of 0.7 voxels that average the variance: it comes from a few predictions a point."""


def affine_residual(
    network: nn.Module, pair: Float[Tensor, "b 2 n n n"], patch: Grid, precision: Precision, symmetric: bool
) -> AffineTransform:
    """The affine map of the world that a network predicts between the patches of ``pair``."""
    generator = predict(network, pair, precision, symmetric).to(patch.voxel_to_world)
    matrix = exponential(generator)
    return AffineTransform(matrix_to_world(matrix, patch))


def patch_velocity(
    network: nn.Module, pair: Float[Tensor, "b 2 x y z"], frame: Grid, precision: Precision, symmetric: bool
) -> Float[Tensor, "b 3 u v w"]:
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
        content = pair.fixed.content
        patch = Grid.centered(cube(self.patch_size), self.spacing_mm, content.center_world).to(content.device)
        with one_core():
            fixed = FixedPatch(pair.fixed.image, patch, self.spacing_mm)
            for _ in range(self.passes * (TRUNCATED_PASSES if pair.is_truncated else 1)):
                images = fixed.with_moving(pair.moving.image, transform)
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
        sides: voxels along a side of a patch; where there are several to choose from, those that fit the
            content (see `fitted_patch`).
        overlap: fraction of a patch that its neighbour covers too, at least.
        smoothing: standard deviation of the kernel that smooths the blended velocity, in its voxels.
        steps: squarings when the velocity is integrated.
        jitter: draws a random shift of the inner patches; ``None``: a regular lattice.
        skip_empty: leave out patches that hold no content of the fixed image.
        precision: see `patchmorph.networks.contract`.
        symmetric: average the predictions for both directions.
        with_variance: let the velocity carry its `velocity_variance`.
        min_detail: leave out patches with less `detail` in either image.
        backwards: begin with the last row of patches, whose chunks a stage before has read last.
    """

    network: nn.Module
    spacing_mm: float
    sides: tuple[int, ...]
    overlap: float
    smoothing: float
    steps: int
    jitter: torch.Generator | None = None
    skip_empty: bool = True
    precision: Precision = "bf16"
    symmetric: bool = False
    with_variance: bool = False
    min_detail: float = 0.0
    backwards: bool = False

    @property
    def label(self) -> str:
        """What is done."""
        return f"network on patches of {self.spacing_mm:.3g} mm"

    def refine(self, pair: PreparedPair, transform: Transform) -> Transform:
        """``transform @ exp(velocity)``; one velocity where the last pass of this scale left another."""
        content, spacing_mm = pair.fixed.content, self.spacing_mm * VELOCITY_STRIDE
        margin = max(1, int(content.margin_mm / spacing_mm))
        inset = max(0, margin - FADE) if len(self.sides) > 1 else 0
        lattice = self._lattice(content.box_world, spacing_mm, inset, content.device)
        blend, rows = Blend(lattice, self.with_variance), list(self._rows(pair, lattice))
        shape = [VELOCITY_STRIDE * n for n in lattice.patch]
        batches = Batches(device_of(self.network, lattice.grid.device), shape)
        for part in transform.parts():
            if isinstance(part, VelocityField):
                _ = part.flow  # integrated now, on all cores
        return_freed_memory(memory_limit() // FREED_SHARE)
        predict = functools.partial(self._predicted, pair, transform, lattice, batches)
        with step("patches", sum(map(len, rows))) as patches:
            concurrent = getattr(self.network, "is_static", False)  # others may keep a state
            found = in_order(predict, rows, lattice.grid.device) if concurrent else map(predict, rows)
            for index, (row, predicted) in enumerate(zip(rows, found, strict=True)):
                for starts, velocities in predicted:
                    blend.add(starts, velocities)
                if index % ROWS_KEPT == ROWS_KEPT - 1:
                    return_freed_memory(memory_limit() // FREED_SHARE)
                advance(patches, len(row))
        return_freed_memory(memory_limit() // FREED_SHARE)
        box, grid = lattice.trim(content.box_world)
        velocity = blend.smoothed(self.smoothing, box, margin - inset, inset)
        to_whole_steps(velocity)
        variance = velocity_variance(blend)[(..., *box.slices)] if self.with_variance else None
        del blend
        return _followed(transform, VelocityField(velocity, grid, self.steps, variance, FLOW_DEGREE))

    def _lattice(
        self, box_world: Float[Tensor, "2 3"], spacing_mm: float, inset: int, device: torch.device
    ) -> PatchLattice:
        sides = [side // VELOCITY_STRIDE for side in self.sides]
        inset += len(sides) > 1  # where the fading velocity is zero
        patch = fitted_patch(box_world, spacing_mm, sides, self.overlap, inset)
        return PatchLattice.cover(box_world, spacing_mm, patch, self.overlap, self.jitter, inset, device)

    def _predicted(
        self,
        pair: PreparedPair,
        transform: Transform,
        lattice: PatchLattice,
        batches: Batches,
        row: Sequence[VoxelIndex],
    ) -> list[tuple[Sequence[VoxelIndex], Float[Tensor, "b 3 u v w"]]]:
        """The velocities of patches, in batches with their places in the lattice.

        Images are sampled once for all of them, since they overlap.
        """
        origin, region = lattice.region(row, VELOCITY_STRIDE)
        images = extract_pair(pair.fixed.image, pair.moving.image, region, self.spacing_mm, transform)
        patches = {
            start: images[(0, slice(None), *lattice.block(start, origin, VELOCITY_STRIDE))] for start in row
        }
        if self.min_detail:
            patches = {start: patch for start, patch in patches.items() if self._has_detail(patch)}
        answer = functools.partial(self._velocity, region)
        return list(batches.over(answer, list(patches), list(patches.values())))

    def _velocity(self, region: Grid, patches: Float[Tensor, "b 2 x y z"]) -> Float[Tensor, "b 3 u v w"]:
        return patch_velocity(self.network, patches, region, self.precision, self.symmetric)

    def _has_detail(self, patch: Float[Tensor, "2 x y z"]) -> bool:
        """Whether both images have the detail that is asked for."""
        return bool((detail(patch[None]) >= self.min_detail).all())

    def _rows(self, pair: PreparedPair, lattice: PatchLattice) -> Iterable[Row]:
        """The patches that are computed, in rows whose images are sampled at once."""
        mask = self._occupied(pair, lattice) if self.skip_empty else None
        axes = LATTICE_ORDER if self.jitter else by_chunk(pair)
        rows = [
            [start for start in row if mask is None or mask[lattice.block(start)].any()]
            for row in swept(lattice.rows, axes)[:: -1 if self.backwards else 1]
        ]
        if lattice.grid.device.type == "cuda":
            most = max(1, MAX_MERGED * PATCH_VOXELS // (VELOCITY_STRIDE**3 * math.prod(lattice.patch)))
            return merged_rows((part for row in rows if row for part in divided(row, most, axes)), most)
        if len(lattice.starts) <= FEW:
            return [[start] for row in rows for start in row]
        voxels = VELOCITY_STRIDE**3 * math.prod(lattice.patch)
        most = max(1, memory_limit() // SAMPLING_SHARE // (VOXEL_BYTES * voxels))
        return [part for row in rows for line in lines(row, axes) for part in shortened(line, most)]

    def _occupied(self, pair: PreparedPair, lattice: PatchLattice) -> np.ndarray:
        """Where in the lattice, ``[X, Y, Z]``, there is content of the fixed image or some not far away."""
        found = np.zeros(lattice.grid.shape, dtype=bool)
        for box, block in lattice.grid.blocks(OCCUPIED_SIDE):
            around = block.widened(CONTENT_MARGIN)
            near = foreground(extract(pair.fixed.image, around, self.spacing_mm * VELOCITY_STRIDE)).float()
            for axis in range(3):  # one after the other, which takes a fifth of the time
                size = [2 * CONTENT_MARGIN + 1 if k == axis else 1 for k in range(3)]
                near = functional.max_pool3d(near, size, 1)
            found[box.slices] = near[0, 0].bool().cpu().numpy()
        return found


def by_chunk(pair: PreparedPair) -> Shape:
    """The world axes, that along which the images' chunks are thinnest first.

    Of rows one behind the other along it, each reads few chunks that the row before has read and the cache
    has dropped.
    """
    chunks = [one for side in (pair.fixed, pair.moving) if (one := side.image.chunk_mm) is not None]
    return triple(sorted(range(3), key=lambda axis: sum(chunk[axis] for chunk in chunks)))


def _followed(transform: Transform, residual: VelocityField) -> Transform:
    """``transform @ residual``, merged with a last velocity on the same grid."""
    *before, last = transform.parts()
    if before and isinstance(last, VelocityField) and last.grid.equals(residual.grid):
        return compose(*before, merged(last, residual))
    return transform @ residual
