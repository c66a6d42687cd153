"""Refinement of one pair: gradient steps on a velocity grid, over random patches.

The last stages of a registration, or all of them where there is no network. The energy is that of the whole
map φ, not of what a stage adds: dissimilarity + diffusion energy + folding penalty of
``A⁻¹ ∘ φ``, with the affine part A. So a refined map is as smooth as one that began elsewhere, however many
stages it went through. All that a step keeps for its gradient is of the size of a patch.
"""

import functools
import itertools
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from patchmorph.images.foreground import Content, foreground
from patchmorph.images.in_memory import ImageSource
from patchmorph.objective.objective import SIMILARITIES
from patchmorph.objective.regularity import diffusion_energy, folding_penalty
from patchmorph.objective.similarity import structure
from patchmorph.patches.blending import rim, smooth
from patchmorph.patches.extraction import extract_pair
from patchmorph.spatial.grid import Grid, Shape, triple
from patchmorph.spatial.sampling import sample_linear
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform
from patchmorph.transforms.velocity import VelocityField, integrate

STRIDE = 2
"""Image voxels per velocity voxel along each axis."""

DIFFUSION = 0.08
FOLDING = 12.0
"""Weights of the regularising terms, all of which are means over the content (docs/decisions/008)."""

RATE = 0.15
"""Velocity voxels (root mean square) that the first steps move by where the gradient keeps its direction."""

FLOOR = 0.05
"""Root mean square of the gradient, times the voxels of content, that steps are not scaled up below: where
there is nothing to gain, noise must not move anything."""

KERNEL = 0.7
"""Standard deviation (velocity voxels) of the kernel that smooths the gradient, twice."""

MOMENTUM, MEMORY = 0.9, 0.99
"""Of the mean gradient and of its mean square, from step to step."""

GAIN, HALVINGS = 1e-3, 3
"""Share of the energy that a pass must gain, or else steps are halved; how often, until refinement ends."""

SQUARINGS = 4
MARGIN = 3
OVERLAP = 4
"""Velocity voxels around a patch that its flow may come from, and that neighbours share at least."""

LEAST = 8
"""Velocity voxels along each side of the grid, at least."""

CELL = 16
"""Image voxels along each side of the cells in which content is looked for."""


@dataclass(frozen=True)
class RefinementStage:
    """Descends the energy of a pair on one scale.

    Attributes:
        content: of the fixed image; its box is what the velocity grid covers.
        spacing_mm: voxel size of the patches; the velocity grid is `STRIDE` times coarser.
        passes: how often, at most, every part of the content is seen.
        generator: draws where patches lie and their order.
        similarity: name in the objective's table of what the images are compared by.
        patch_size: most voxels along each side of a patch; fewer where they cover the box as well.
        batch: patches in a step.
    """

    content: Content
    spacing_mm: float
    passes: int
    generator: torch.Generator
    similarity: str = "lncc"
    patch_size: int = 80
    batch: int = 4

    def refine(self, fixed: ImageSource, moving: ImageSource, transform: Transform) -> Transform:
        """``transform`` with a better last velocity, or with one more (see `_split`)."""
        descent = Descent(self, fixed, moving, transform)
        best, halvings = math.inf, 0
        for k in range(self.passes):
            fall = (1 + math.cos(math.pi * (k + 0.5) / self.passes)) / 2
            energy = descent.run(RATE * fall / 2**halvings)
            halvings += energy > (1 - GAIN) * best
            if halvings > HALVINGS:
                break
            best = min(best, energy)
        velocity = descent.velocity * descent.spacing_mm
        return descent.outer @ VelocityField(velocity, descent.grid, SQUARINGS, descent.variance)


class Descent:
    """The state of a descent: volumes of one scale on one grid, axis-aligned, and the velocity so far.

    Attributes:
        grid: velocity grid over the content's box.
        velocity: ``[1, 3, X, Y, Z]`` in velocity voxels, along the world axes.
    """

    def __init__(self, stage: RefinementStage, fixed: ImageSource, moving: ImageSource, transform: Transform):
        self.stage = stage
        self.spacing_mm = stage.spacing_mm * STRIDE
        box = stage.content.box_world
        extent = (box[1] - box[0]).tolist()
        shape = triple(max(LEAST, math.ceil(length / self.spacing_mm)) for length in extent)
        self.grid = Grid.centered(shape, self.spacing_mm, box.double().mean(0, keepdim=True))
        self.width = triple(_width(count, stage.patch_size // STRIDE) for count in shape)
        device = self.grid.device
        self.outer, velocity, self.variance = _split(transform, self.grid)
        self.velocity = velocity / self.spacing_mm
        self.momentum = torch.zeros_like(self.velocity)
        self.edge = rim(shape, 3, device)
        with torch.no_grad():
            self.fixed, self.moving, self.warp = self._volumes(fixed, moving, self.outer)
            content = foreground(self.fixed)
            self.content = content.sum().clamp(min=1)
            self.structure = structure(self.fixed)
            near = functional.max_pool3d(content.float(), CELL, CELL, ceil_mode=True)
            self.near = near[0, 0].bool().cpu()
        self.square = torch.zeros((), device=device)
        self.steps = 0

    def _volumes(
        self, fixed: ImageSource, moving: ImageSource, transform: Transform
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Fixed image, moving image as warped so far, and the map's displacement but for its affine part."""
        spacing_mm = self.stage.spacing_mm
        first, *_ = transform.parts()
        assert isinstance(first, AffineTransform), "a registration starts with a shift"
        back = first.inverse()
        fine = Grid.centered(triple(STRIDE * n for n in self.grid.shape), spacing_mm, self.grid.center_world)
        slabs = list(fine.slabs())
        pairs = [extract_pair(fixed, moving, slab, spacing_mm, transform) for slab in slabs]
        images = torch.cat(pairs, dim=2).split(1, dim=1)
        warps = []
        for slab in self.grid.slabs():
            points = slab.points_world()
            warps.append((back(transform(points)) - points).movedim(-1, 1) / self.spacing_mm)
        return images[0], images[1], torch.cat(warps, dim=2)

    def run(self, rate: float) -> float:
        """One pass over the content in steps of a few patches; the mean energy that it met."""
        energy = covered = torch.zeros((), device=self.grid.device)
        for starts in self._batches():
            energy = energy + self._step(starts, rate)
            covered = covered + sum(self._content(start) for start in starts)
        return float(energy * self.content / covered)

    def _content(self, start: Shape) -> Tensor:
        """Voxels of content in the patch at ``start``."""
        first, size = (triple(STRIDE * n for n in side) for side in (start, self.width))
        return foreground(self.fixed[:, :, *_block(first, size)]).sum()

    def _batches(self) -> Iterator[list[Shape]]:
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

    def _has_content(self, start: Shape) -> bool:
        block = tuple(
            slice(STRIDE * a // CELL, -(-STRIDE * (a + n) // CELL))
            for a, n in zip(start, self.width, strict=True)
        )
        return bool(self.near[block].any())

    def _step(self, starts: list[Shape], rate: float) -> Tensor:
        """Move the velocity against the gradient that some patches give; their share of the energy."""
        wide = triple(n + 2 * MARGIN for n in self.width)
        padded = functional.pad(self.velocity, [MARGIN] * 6)
        gradient = torch.zeros_like(padded)
        total = torch.zeros((), device=padded.device)
        for start in starts:  # one after the other: memory for one, and on a CPU its caches hold one
            block = (slice(None), slice(None), *_block(start, wide))
            crop = padded[block].clone().requires_grad_()
            with torch.enable_grad():
                energy = self._energy(crop, start)
            gradient[block] += torch.autograd.grad(energy, crop)[0]
            total += energy.detach()
        gradient = gradient[:, :, *_block((MARGIN, MARGIN, MARGIN), self.grid.shape)]
        self._move(smooth(smooth(gradient, KERNEL), KERNEL), len(starts) * math.prod(self.width), rate)
        return total

    def _move(self, gradient: Float[Tensor, "1 3 x y z"], touched: int, rate: float) -> None:
        """A step against the running mean of the gradient, scaled by the running mean of its square."""
        self.steps += 1
        self.momentum.lerp_(gradient, 1 - MOMENTUM)
        self.square.lerp_(gradient.square().sum() / touched, 1 - MEMORY)
        square = self.square / (1 - MEMORY**self.steps)
        rate = rate / (1 - MOMENTUM**self.steps)
        self.velocity -= self.edge * self.momentum * (rate / (square.sqrt() + FLOOR / self.content))

    def _energy(self, crop: Float[Tensor, "1 3 u v w"], start: Shape) -> Float[Tensor, ""]:
        """A patch's share of the energy, as a mean over the whole content.

        Args:
            crop: velocity of the patch with its `MARGIN`.
            start: first velocity voxel of the patch.
        """
        first, size = (triple(STRIDE * n for n in side) for side in (start, self.width))
        frame = Grid.centered(triple(crop.shape[2:]), 1.0, torch.zeros(1, 3, device=crop.device))
        flow = integrate(crop, frame, SQUARINGS)
        seam = MARGIN - 1  # one voxel more on each side, for what lies between the outermost
        wider = flow[:, :, *_block((seam, seam, seam), triple(n + 2 for n in self.width))]
        fine = functional.interpolate(wider, scale_factor=STRIDE, mode="trilinear", align_corners=False)
        fine = fine[:, :, *_block((STRIDE, STRIDE, STRIDE), size)] * STRIDE
        warped = sample_linear(self.moving, _points(first, size, crop.device) + fine.movedim(1, -1), "zeros")
        block = (slice(None), slice(None), *_block(first, size))
        dissimilarity = SIMILARITIES[self.stage.similarity](self.fixed[block], warped)
        inner = flow[:, :, *_block((MARGIN, MARGIN, MARGIN), self.width)]
        points = _points(start, self.width, crop.device) + inner.movedim(1, -1)
        warp = inner + sample_linear(self.warp, points, "border")
        regularity = DIFFUSION * diffusion_energy(warp) + FOLDING * folding_penalty(warp)
        likeness = (dissimilarity * self.structure[block].sum()).sum()
        return (likeness + math.prod(size) * regularity.sum()) / self.content


def _width(count: int, most: int) -> int:
    """Side of patches, at most ``most`` voxels, of which as few as can be cover ``count`` voxels."""
    number = math.ceil((count - OVERLAP) / (most - OVERLAP))
    return min(count, math.ceil((count - OVERLAP) / number) + OVERLAP)


def _split(transform: Transform, grid: Grid) -> tuple[Transform, Tensor, Tensor | None]:
    """``outer`` and ``v`` (mm, on ``grid``) so that ``outer @ exp(v)`` is ``transform``, and v's variance.

    A last part that is a velocity field of the same resolution is taken up, since no further flow could undo
    its folds; else v is zero.
    """
    *before, last = transform.parts()
    if before and isinstance(last, VelocityField) and torch.allclose(last.grid.spacing_mm, grid.spacing_mm):
        both = last.velocity if last.variance is None else torch.cat([last.velocity, last.variance], dim=1)
        both = sample_linear(both, grid.points_world(), "zeros", last.grid.world_to_voxel)
        variance = None if last.variance is None else both[:, 3:]
        return functools.reduce(operator.matmul, before), both[:, :3], variance
    return transform, torch.zeros(1, 3, *grid.shape, device=grid.device), None


def _block(start: Shape, shape: Shape) -> tuple[slice, ...]:
    return tuple(slice(first, first + count) for first, count in zip(start, shape, strict=True))


def _points(first: Shape, size: Shape, device: torch.device) -> Float[Tensor, "1 x y z 3"]:
    """Voxel indices of a block."""
    axes = [
        torch.arange(a, a + n, dtype=torch.float32, device=device) for a, n in zip(first, size, strict=True)
    ]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)[None]
