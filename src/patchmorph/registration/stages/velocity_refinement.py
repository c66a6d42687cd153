"""Refinement of one pair: gradient steps on a velocity grid, over random patches.

The last stages of a registration, or all dense ones where there is no network. The energy is that of the
whole map φ, not of the residual of a stage: dissimilarity + diffusion energy + folding penalty of
``A⁻¹ ∘ φ``, with the affine part A. So a refined map is as smooth whatever the stages before it. The
dissimilarities of several channels add up, each with its weight. A gradient is computed patch by patch; the
images and the map are held on the grid of the scale, over the content's box.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from patchmorph.networks.contract import VELOCITY_STRIDE
from patchmorph.objective.objective import Objective
from patchmorph.objective.regularity import diffusion_energy, folding_penalty, volume_energy
from patchmorph.patches.blending import rim, smooth
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.stages.base import Stage
from patchmorph.registration.stages.compared import ComparedVolumes
from patchmorph.registration.stages.descent import Descent, half_cosine
from patchmorph.spatial.bsplines import apply_along_axes
from patchmorph.spatial.grid import Grid, VoxelBox, VoxelIndex, cube, triple
from patchmorph.spatial.lattices import nearest_spline_at
from patchmorph.spatial.sampling import sample_linear
from patchmorph.transforms.base import Transform, compose
from patchmorph.transforms.velocity import FLOW_DEGREE, VelocityField, integrate

REFINEMENT = Objective(diffusion=0.04, volume=0.1, folding=12.0)
"""Weights of the energy, whose terms are means over the content (docs/decisions/017)."""

BY_OTHERS = Objective(diffusion=0.08, folding=12.0)
"""The same where images are not compared by LNCC (docs/decisions/008)."""

RATE = 0.15
"""Velocity voxels (root mean square) of the first steps, unless a stage has others."""

FLOOR = 0.1
"""Root mean square of the gradient, times the voxels of content, below which steps are not scaled up: where
nothing can be gained, noise must not move anything."""

KERNEL = 0.7
"""Standard deviation (velocity voxels) of the kernel that smooths the gradient, twice."""

MOMENTUM, MEMORY = 0.9, 0.99
"""Decay of the mean gradient and of its mean square, from step to step."""

GAIN, HALVINGS = 1e-3, 3
"""Fraction of the energy that a pass must gain, or else steps are halved; halvings before refinement ends."""

SQUARINGS = 4
MARGIN = 3
OVERLAP = 4
"""Velocity voxels around a patch from which its flow may come, and voxels that neighbours share at least."""

MIN_WIDTH = 8
"""Velocity voxels along each side of the grid, at least."""

CELL = 16
"""Image voxels along each side of the cells in which content is sought."""


def refinement_by(similarity: str) -> Objective:
    """The energy of a refinement that compares images by ``similarity``."""
    return REFINEMENT if similarity == REFINEMENT.similarity else BY_OTHERS.comparing_by(similarity)


@dataclass(frozen=True)
class VelocityRefinementStage(Stage):
    """Minimises the energy of a pair on one scale.

    Attributes:
        spacing_mm: voxel size of the patches; the velocity grid is `VELOCITY_STRIDE` times coarser.
        passes: over the content, at most.
        generator: draws the places of the patches and their order.
        objective: similarity and weights of the energy.
        patch_size: voxels along each side of a patch, at most; fewer where that covers the box as well.
        batch: patches in a step.
        rate: velocity voxels (root mean square) of the first steps where the gradient keeps its direction.
    """

    spacing_mm: float
    passes: int
    generator: torch.Generator
    objective: Objective = REFINEMENT
    patch_size: int = 80
    batch: int = 4
    rate: float = RATE

    @property
    def label(self) -> str:
        """What is done."""
        return f"refinement at {self.spacing_mm:.3g} mm"

    def refine(self, pair: PreparedPair, transform: Transform) -> Transform:
        """``transform`` with a better last velocity, or with one more (see `_split`)."""
        return VelocityDescent(self, pair, transform).run()


class VelocityDescent(Descent):
    """The velocity on a grid over the content's box, with the images and the map on the grids of the scale.

    Attributes:
        grid: velocity grid, axis-aligned.
        velocity: ``[1, 3, X, Y, Z]`` in velocity voxels, along the world axes.
        passes: passes done.
        halvings: how often the steps were halved.
    """

    def __init__(self, stage: VelocityRefinementStage, pair: PreparedPair, transform: Transform):
        self.stage = stage
        self.spacing_mm = stage.spacing_mm * VELOCITY_STRIDE
        content = pair.fixed.content
        self.grid = Grid.covering(content.box_world, self.spacing_mm, cube(MIN_WIDTH)).to(content.device)
        self.width = triple(_width(count, stage.patch_size // VELOCITY_STRIDE) for count in self.grid.shape)
        device = self.grid.device
        self.read_at_points, self.read_at_voxels = (
            [_reading(count, per_point).to(device) for count in self.width]
            for per_point in (1, VELOCITY_STRIDE)
        )
        self.outer, velocity, self.variance = _split(transform, self.grid)
        self.velocity = velocity / self.spacing_mm
        self.momentum = torch.zeros_like(self.velocity)
        self.square = torch.zeros((), device=device)
        self.steps = self.passes = self.halvings = 0
        self.best = math.inf
        self.fade = rim(self.grid.shape, 3, device)
        with torch.no_grad():
            shape = triple(VELOCITY_STRIDE * n for n in self.grid.shape)
            fine = Grid.centered(shape, stage.spacing_mm, self.grid.center_world).to(device)
            self.images = ComparedVolumes(pair, self.outer, fine, stage.spacing_mm)
            self.displacement = self._displacement()
            content = self.images.content()
            self.content_voxels = content.sum().clamp(min=1)
            cells = functional.max_pool3d(content.float(), CELL, CELL, ceil_mode=True)
            self.content_cells = cells[0, 0].bool().cpu()

    @property
    def is_done(self) -> bool:
        """Whether all passes are done, or smaller steps gain nothing either."""
        return self.passes == self.stage.passes or self.halvings > HALVINGS

    @property
    def limit(self) -> int:
        """Passes, at most."""
        return self.stage.passes

    def step(self) -> None:
        """One pass over the content in steps of a few patches each."""
        rate = self.stage.rate * half_cosine((self.passes + 0.5) / self.stage.passes) / 2**self.halvings
        energy = covered = torch.zeros((), device=self.grid.device)
        for starts in self._batches():
            energy = energy + self._descend(starts, rate)
            covered = covered + sum(self.images.content(self._voxels(start)).sum() for start in starts)
        mean = float(energy * self.content_voxels / covered)
        self.halvings += mean > (1 - GAIN) * self.best
        self.best = min(self.best, mean)
        self.passes += 1

    @property
    def transform(self) -> Transform:
        """The map of the current velocity."""
        return self.outer @ VelocityField(
            self.velocity * self.spacing_mm, self.grid, SQUARINGS, self.variance, FLOW_DEGREE
        )

    def _displacement(self) -> Float[Tensor, "1 3 x y z"]:
        """The map so far without its affine part, in velocity voxels."""
        affine = self.outer.affine_part()
        displacement = torch.empty_like(self.velocity)
        for box, block in self.grid.blocks():
            points = block.points_world()
            remainder = affine.remainder(points, self.outer(points))
            displacement[(..., *box.slices)] = remainder.movedim(-1, 1) / self.spacing_mm
        return displacement

    def _voxels(self, start: VoxelIndex) -> tuple[slice, ...]:
        """The image voxels of the patch at ``start``, as an index into ``[1, C, X, Y, Z]``."""
        first, size = (triple(VELOCITY_STRIDE * n for n in side) for side in (start, self.width))
        return _block(first, size)

    def _batches(self) -> Iterator[list[VoxelIndex]]:
        """First velocity voxels of patches with content that cover the box, shifted at random, shuffled."""
        generator = self.stage.generator
        axes = []
        for count, width in zip(self.grid.shape, self.width, strict=True):
            slack = count - width
            number = 1 + math.ceil(slack / (width - OVERLAP))
            spread = [slack * k / max(1, number - 1) for k in range(number)]
            shift = torch.randint(-OVERLAP // 2, OVERLAP // 2 + 1, (number,), generator=generator)
            shift[[0, -1]] = 0  # the rim of the box must be covered, too
            axes.append([round(first) + by for first, by in zip(spread, shift.tolist(), strict=True)])
        starts = [start for start in itertools.product(*axes) if self._has_content(start)]
        order = torch.randperm(len(starts), generator=generator).tolist()
        for first in range(0, len(order), self.stage.batch):
            yield [starts[k] for k in order[first : first + self.stage.batch]]

    def _has_content(self, start: VoxelIndex) -> bool:
        cells = tuple(
            slice(VELOCITY_STRIDE * a // CELL, -(-VELOCITY_STRIDE * (a + n) // CELL))
            for a, n in zip(start, self.width, strict=True)
        )
        return bool(self.content_cells[cells].any())

    def _descend(self, starts: list[VoxelIndex], rate: float) -> Tensor:
        """Move the velocity against the gradient of some patches; return their part of the energy."""
        wide = triple(n + 2 * MARGIN for n in self.width)
        padded = functional.pad(self.velocity, [MARGIN] * 6)
        gradient = torch.zeros_like(padded)
        total = torch.zeros((), device=padded.device)
        for start in starts:  # one after the other: memory for one, and on a CPU its caches hold one
            block = _block(start, wide)
            crop = padded[block].clone().requires_grad_()
            with torch.enable_grad():
                energy = self._energy(crop, start)
            gradient[block] += torch.autograd.grad(energy, crop)[0]
            total += energy.detach()
        gradient = gradient[_block(cube(MARGIN), self.grid.shape)]
        self._move(smooth(smooth(gradient, KERNEL), KERNEL), len(starts) * math.prod(self.width), rate)
        return total

    def _move(self, gradient: Float[Tensor, "1 3 x y z"], touched: int, rate: float) -> None:
        """A step against the running mean of the gradient, scaled by the running mean of its square."""
        self.steps += 1
        self.momentum.lerp_(gradient, 1 - MOMENTUM)
        self.square.lerp_(gradient.square().sum() / touched, 1 - MEMORY)
        square = self.square / (1 - MEMORY**self.steps)
        rate = rate / (1 - MOMENTUM**self.steps)
        self.velocity -= self.fade * self.momentum * (rate / (square.sqrt() + FLOOR / self.content_voxels))

    def _energy(self, crop: Float[Tensor, "1 3 u v w"], start: VoxelIndex) -> Float[Tensor, ""]:
        """A patch's part of the energy, as a mean over the whole content.

        Args:
            crop: velocity of the patch with its `MARGIN`.
            start: first velocity voxel of the patch.
        """
        frame = Grid.centered(triple(crop.shape[2:]), 1.0, torch.zeros(1, 3)).to(crop.device)
        flow = integrate(crop, frame, SQUARINGS)
        inner = apply_along_axes(flow, self.read_at_points)
        fine = apply_along_axes(flow, self.read_at_voxels) * VELOCITY_STRIDE
        voxels = self._voxels(start)
        moved = _points(voxels, crop.device) + fine.movedim(1, -1)
        points = _points(_block(start, self.width), crop.device) + inner.movedim(1, -1)
        displacement = inner + sample_linear(self.displacement, points, "border")
        terms = {
            "similarity": self.images.dissimilarity(voxels, moved, self.stage.objective),
            "diffusion": diffusion_energy(displacement),
            "folding": folding_penalty(displacement),
        }
        if self.stage.objective.volume:
            terms["volume"] = volume_energy(displacement)
        return self.stage.objective.weighted(terms).sum() * fine[0, 0].numel() / self.content_voxels


def _reading(count: int, per_point: int) -> Float[Tensor, "m n"]:
    """The matrix that reads a flow as it is registered (`FLOW_DEGREE`), along an axis of a patch.

    Args:
        count: velocity voxels of the patch, which has `MARGIN` more at each end.
        per_point: points in each of them at which the flow is read.
    """
    points = (torch.arange(count * per_point, dtype=torch.float64) + 0.5) / per_point - 0.5
    return nearest_spline_at(MARGIN + points, count + 2 * MARGIN, FLOW_DEGREE).float()


def _width(count: int, most: int) -> int:
    """Side of patches, at most ``most`` voxels, of which as few as possible cover ``count`` voxels."""
    number = math.ceil((count - OVERLAP) / (most - OVERLAP))
    return min(count, math.ceil((count - OVERLAP) / number) + OVERLAP)


def _split(transform: Transform, grid: Grid) -> tuple[Transform, Tensor, Tensor | None]:
    """``outer`` and ``v`` (mm, on ``grid``) so that ``outer @ exp(v)`` is ``transform``, and v's variance.

    A last velocity field of the same resolution is continued, since no further flow could undo its folds;
    otherwise v is zero.
    """
    *before, last = transform.parts()
    if before and isinstance(last, VelocityField) and torch.allclose(last.grid.spacing_mm, grid.spacing_mm):
        both = last.velocity if last.variance is None else torch.cat([last.velocity, last.variance], dim=1)
        both = sample_linear(both, grid.points_world(), "zeros", last.grid.world_to_voxel)
        variance = None if last.variance is None else both[:, 3:]
        return compose(*before), both[:, :3], variance
    return transform, torch.zeros(1, 3, *grid.shape, device=grid.device), None


def _block(start: VoxelIndex, shape: tuple[int, int, int]) -> tuple[slice, ...]:
    """A block as an index into ``[1, C, X, Y, Z]``."""
    return (slice(None), slice(None), *VoxelBox.at(start, shape).slices)


def _points(block: tuple[slice, ...], device: torch.device) -> Float[Tensor, "1 x y z 3"]:
    """Voxel indices of a block."""
    axes = [torch.arange(a.start, a.stop, dtype=torch.float32, device=device) for a in block[2:]]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)[None]
