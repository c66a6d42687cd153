"""The stages of a registration: each takes the transform so far and returns a better one.

A stage registers the fixed image to the moving image as already warped, so its residual is composed on the
inner side: ``transform @ residual``. The functions at the top turn a network's answer into a residual; they
serve these stages and training alike.
"""

import functools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from patchmorph.images.foreground import Content, foreground
from patchmorph.images.in_memory import ImageSource
from patchmorph.networks.contract import VELOCITY_STRIDE, Precision, predict
from patchmorph.networks.model import PatchMorphModel
from patchmorph.patches.blending import Blend, rim, smooth
from patchmorph.patches.extraction import extract, extract_pair, matrix_to_world, velocity_to_world
from patchmorph.patches.lattice import PatchLattice, Start
from patchmorph.spatial.affine import exponential
from patchmorph.spatial.grid import Grid, triple
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform
from patchmorph.transforms.velocity import VelocityField, merged

DOUBT_OVERLAP = 0.5
"""Share of a patch that its neighbours must cover for every point to be seen by several patches."""

DOUBT_CORRECTION = 0.1
"""Share of the square of a last correction that counts as its variance."""

DOUBT_SMOOTHINGS = 8
"""Passes of a kernel of 0.7 voxels that average the variance: a few answers at a point say little."""

PARTIAL_REPEATS = 3
"""How many times more an affine network looks where some of an image is missing: the start is worse then."""

AFFINE_POINTS = 64
"""Along the longest side of the content's box: where the affine map nearest to another is sought."""

LEAST_POINTS = 100
"""Of content with a counterpart, to find an affine map by."""

CONTENT_MARGIN = 3
"""Velocity voxels around the content that still count as content: as far as a flow may leave it."""


def affine_residual(
    network: nn.Module, pair: Float[Tensor, "b 2 n n n"], patch: Grid, precision: Precision, symmetric: bool
) -> AffineTransform:
    """The affine map of the world that a network sees between the patches of ``pair``."""
    matrix = exponential(_answer(network, pair, precision, symmetric).double())
    return AffineTransform(matrix_to_world(matrix, patch))


def patch_velocity(
    network: nn.Module, pair: Float[Tensor, "b 2 n n n"], frame: Grid, precision: Precision, symmetric: bool
) -> Float[Tensor, "b 3 m m m"]:
    """The velocity (mm, world axes) that a network sees in patches with the axes and voxels of ``frame``."""
    return velocity_to_world(_answer(network, pair, precision, symmetric), frame)


def _answer(
    network: nn.Module, pair: Float[Tensor, "b 2 n n n"], precision: Precision, symmetric: bool
) -> Float[Tensor, "b *out"]:
    """What a network says; ``symmetric``: half the difference to what it says of the pair swapped.

    Generators of maps change sign with the direction, so a symmetric stage is inverse consistent whatever its
    weights (Greer et al., *Inverse consistency by construction*, MICCAI 2023).
    """
    answer = predict(network, pair, precision)
    return (answer - predict(network, pair.flip(1), precision)) / 2 if symmetric else answer


def doubt(blend: Blend) -> Float[Tensor, "1 1 x y z"]:
    """Variance (mm²) of what the patches of a last stage say (docs/decisions/008).

    Overlapping patches see another context of the same point, and where the images leave no choice, they
    agree. Their large coarser neighbours disagree with them by the correction that they ask for.
    """
    variance = blend.variance() + DOUBT_CORRECTION * blend.velocity().square().sum(1, keepdim=True)
    for _ in range(DOUBT_SMOOTHINGS):
        variance = smooth(variance, 0.7)
    return variance


def _followed(transform: Transform, residual: VelocityField) -> Transform:
    """``transform @ residual``, as one velocity with the last one if that stands on the same grid."""
    *before, last = transform.parts()
    if before and isinstance(last, VelocityField) and _same(last.grid, residual.grid):
        return functools.reduce(operator.matmul, [*before, merged(last, residual)])
    return transform @ residual


def _same(grid: Grid, other: Grid) -> bool:
    return grid.shape == other.shape and torch.equal(grid.voxel_to_world, other.voxel_to_world)


@runtime_checkable
class Stage(Protocol):
    """One step of the fold."""

    def refine(self, fixed: ImageSource, moving: ImageSource, transform: Transform) -> Transform:
        """A better transform than ``transform``, which maps fixed to moving world."""
        ...


@dataclass(frozen=True)
class AffineStage:
    """Looks several times at one patch over the whole content.

    Attributes:
        network: affine network (see `patchmorph.networks.contract`).
        patch: where it looks.
        spacing_mm: voxel size of the patch.
        repeats: how often.
        precision: see `patchmorph.networks.contract`.
        symmetric: ask the network in both directions.
    """

    network: nn.Module
    patch: Grid
    spacing_mm: float
    repeats: int
    precision: Precision = "bf16"
    symmetric: bool = False

    def refine(self, fixed: ImageSource, moving: ImageSource, transform: Transform) -> Transform:
        """``transform @ affine``."""
        partial = bool(fixed.outward() or moving.outward())
        for _ in range(self.repeats * (PARTIAL_REPEATS if partial else 1)):
            pair = extract_pair(fixed, moving, self.patch, self.spacing_mm, transform)
            transform = transform @ affine_residual(
                self.network, pair, self.patch, self.precision, self.symmetric
            )
        return transform


@dataclass(frozen=True)
class NearestAffineStage:
    """Keeps of a map the affine map nearest to it where content has a counterpart.

    Dense stages that begin again there need not bend what the affine network saw wrong.

    Attributes:
        content: of the fixed image.
    """

    content: Content

    def refine(self, fixed: ImageSource, moving: ImageSource, transform: Transform) -> Transform:
        """The affine map with the least squares of distances to ``transform``."""
        lower, upper = self.content.box_world
        spacing_mm = float((upper - lower).max()) / AFFINE_POINTS
        shape = triple(int(length / spacing_mm) + 1 for length in (upper - lower).tolist())
        points = Grid.centered(shape, spacing_mm, (lower + upper)[None] / 2).points_world()
        mapped = transform(points)
        counts = foreground(fixed.sample(points, spacing_mm))[:, 0]
        known = moving.known(mapped)
        counts = counts if known is None else counts & known
        if int(counts.sum()) < LEAST_POINTS:
            return transform.parts()[0]
        return AffineTransform.nearest(points[counts][None], mapped[counts][None])


@dataclass(frozen=True)
class DenseStage:
    """Looks at every patch of a lattice and blends the answers into one velocity field.

    Attributes:
        network: dense network (see `patchmorph.networks.contract`).
        content: of the fixed image; its box is what the lattice covers.
        spacing_mm: voxel size of the patches.
        patch_size: voxels along each side of a patch.
        overlap: least share of a patch that its neighbour covers too.
        smoothing: standard deviation of the kernel that smooths the blended velocity, in its voxels.
        steps: squarings when the velocity is integrated.
        jitter: if given, draws a random shift of the inner patches.
        skip_empty: leave out patches that hold no content of the fixed image.
        precision: see `patchmorph.networks.contract`.
        symmetric: ask the network in both directions.
        variance: let the velocity carry its `doubt`.
    """

    network: nn.Module
    content: Content
    spacing_mm: float
    patch_size: int
    overlap: float
    smoothing: float
    steps: int
    jitter: torch.Generator | None = None
    skip_empty: bool = True
    precision: Precision = "bf16"
    symmetric: bool = False
    variance: bool = False

    def refine(self, fixed: ImageSource, moving: ImageSource, transform: Transform) -> Transform:
        """``transform @ exp(velocity)``; one velocity where the last look at this scale left another."""
        width = self.patch_size // VELOCITY_STRIDE
        spacing_mm = self.spacing_mm * VELOCITY_STRIDE
        lattice = PatchLattice.cover(self.content.box_world, spacing_mm, width, self.overlap, self.jitter)
        blend = Blend(lattice)
        batch_size = 32 if lattice.grid.device.type == "cuda" else 4
        for row in self._rows(fixed, lattice):
            origin, region = lattice.region(row, VELOCITY_STRIDE)
            pair = extract_pair(fixed, moving, region, self.spacing_mm, transform)
            for first in range(0, len(row), batch_size):
                starts = row[first : first + batch_size]
                blocks = [lattice.block(start, origin, VELOCITY_STRIDE) for start in starts]
                pairs = torch.stack([pair[(0, slice(None), *block)] for block in blocks])
                velocities = patch_velocity(self.network, pairs, region, self.precision, self.symmetric)
                blend.add(starts, velocities)
        block, grid = lattice.trim(self.content.box_world)
        velocity = smooth(blend.velocity(), self.smoothing)[:, :, *block]
        fade = rim(grid.shape, max(1, int(self.content.margin_mm / spacing_mm)), grid.device)
        variance = doubt(blend)[:, :, *block] if self.variance else None
        return _followed(transform, VelocityField(velocity * fade, grid, self.steps, variance))

    def _rows(self, fixed: ImageSource, lattice: PatchLattice) -> Iterator[Sequence[Start]]:
        if not self.skip_empty:
            yield from lattice.rows
            return
        seen = foreground(extract(fixed, lattice.grid, self.spacing_mm * VELOCITY_STRIDE)).float()
        size = 2 * CONTENT_MARGIN + 1
        mask = functional.max_pool3d(seen, size, 1, CONTENT_MARGIN)[0, 0].bool().cpu().numpy()
        for row in lattice.rows:
            starts = [start for start in row if mask[lattice.block(start)].any()]
            if starts:
                yield starts


def schedule(
    model: PatchMorphModel,
    content: Content,
    jitter: torch.Generator | None = None,
    variance: bool = False,
) -> list[Stage]:
    """The stages of ``model`` for a fixed image with this ``content``: affine, then dense, coarse to fine."""
    spec = model.spec
    spacings_mm = spec.spacings_for(content.radius_mm)
    side = spec.patch_size
    coarsest = Grid.centered((side, side, side), spacings_mm[0], content.center_world)
    stages: list[Stage] = []
    if model.affine is not None:
        affine = AffineStage(
            model.affine, coarsest, spacings_mm[0], spec.affine_repeats, spec.precision, spec.symmetric
        )
        stages.append(affine)
    last = len(spec.looks) - 1
    stages += [
        DenseStage(
            network=model.dense[scale],
            content=content,
            spacing_mm=spacings_mm[scale],
            patch_size=spec.patch_size,
            overlap=max(spec.overlap, DOUBT_OVERLAP) if variance and look == last else spec.overlap,
            smoothing=spec.smoothing,
            steps=spec.integration_steps,
            jitter=jitter,
            precision=spec.precision,
            symmetric=spec.symmetric,
            variance=variance and look == last,
        )
        for look, scale in enumerate(spec.looks)
    ]
    return stages
