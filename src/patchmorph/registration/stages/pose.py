"""Where a registration starts: rotation, scale and shift, whatever the pose of the images in their scanners.

All rotations are tried at a very low resolution, the best are improved step by step at a low one. What counts
is the correlation ratio, which asks only that one intensity of the fixed image goes with one of the moving
image, so any two contrasts will do.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patchmorph.images.foreground import Content, foreground
from patchmorph.images.in_memory import ImageSource
from patchmorph.objective.similarity import correlation_ratio
from patchmorph.spatial.affine import about_point, apply_affine, exponential, from_translation, skew
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform

ROTATIONS = 512
"""Tried at first, besides none: no rotation is further than about 25° from one of them."""
REACH = 1.75
"""Half the side of the cube that is compared, in radii of the fixed content."""
SEARCHED, IMPROVED = 16, 24
"""Points along each side of the cube, for the search and for the improvement."""
KEPT, FINALISTS = 8, 3
"""Poses that are improved, and those of them that are left after two rounds."""
ROUNDS = 5
"""Of improvement, each with half the steps of the one before, and twice each."""
TURN, SHIFT, GROWTH = math.radians(14), 0.15, 0.08
"""First steps: of rotation, of shift (in radii of the moving content), and of the logarithm of the scale."""
UPRIGHT = 0.02
"""By how much the correlation ratio of half a turn must exceed that of none: what decides for an object that
looks nearly alike from several sides."""
MISSING = 0.4
"""How far, in radii, the middle of content that the array cuts through may lie from that of all of it."""
LEAST_COMMON = 0.5
"""Share of the fixed content that two images have in common; a pose with less counts less."""
CHUNK = 128
"""Poses that are compared at a time on a CPU."""


@dataclass(frozen=True)
class PoseStage:
    """Finds a similarity transform: rotation, one scale, shift.

    Attributes:
        fixed: content of the fixed image.
        moving: content of the moving image; the ratio of their sizes is the first scale.
    """

    fixed: Content
    moving: Content

    def refine(self, fixed: ImageSource, moving: ImageSource, transform: Transform) -> Transform:
        """``transform @ similarity``, where ``transform`` maps one centre to the other."""
        growth = self.moving.radius_mm / self.fixed.radius_mm
        missing = (fixed.outward(), moving.outward())
        if any(missing) and 0.5 < growth < 2:
            growth = 1.0  # a radius of what is left says little
        poses = self._everywhere(growth, *missing)
        compare = _Comparison(fixed, moving, transform, self.fixed, growth, SEARCHED)
        poses = poses[compare(poses).topk(KEPT).indices]
        compare = _Comparison(fixed, moving, transform, self.fixed, growth, IMPROVED)
        for k in range(ROUNDS):
            if k == 2:
                poses = poses[compare(poses).topk(FINALISTS).indices]
            for _ in range(2):
                poses = self._improved(poses, compare, 0.5**k)
        best = poses[compare(poses).argmax()][None]
        return transform @ AffineTransform(_matrix(best, self.fixed.center_world))

    def _everywhere(
        self, growth: float, fixed_missing: Sequence[Tensor], moving_missing: Sequence[Tensor]
    ) -> Float[Tensor, "k 3 4"]:
        """All rotations about the middle, and about where else it may lie if some of an image is missing."""
        device = self.fixed.center_world.device
        turns = torch.cat([torch.eye(3, dtype=torch.float64)[None], rotations(ROTATIONS)]).to(device)
        shifts = [torch.zeros_like(turns[:, 0])]
        shifts += [-growth * MISSING * self.fixed.radius_mm * turns @ outward for outward in fixed_missing]
        shifts += [
            MISSING * self.moving.radius_mm * outward.expand(len(turns), 3) for outward in moving_missing
        ]
        return torch.cat([torch.cat([growth * turns, shift[:, :, None]], dim=2) for shift in shifts])

    def _improved(self, poses: Float[Tensor, "k 3 4"], compare: "_Comparison", step: float) -> Tensor:
        """The best neighbour of each pose, or the pose itself."""
        turns, shifts = _steps(step, self.moving.radius_mm, poses.device)
        linear = turns @ poses[:, None, :, :3]
        shift = poses[:, None, :, 3] + shifts
        around = torch.cat([linear, shift[..., None]], dim=3)
        best = compare(around.flatten(0, 1)).reshape(len(poses), -1).argmax(1)
        return around[torch.arange(len(poses), device=poses.device), best]


class _Comparison:
    """How alike the images are under a pose: points, and what the fixed image shows there."""

    def __init__(
        self,
        fixed: ImageSource,
        moving: ImageSource,
        transform: Transform,
        content: Content,
        growth: float,
        side: int,
    ):
        spacing_mm = 2 * REACH * content.radius_mm / side
        cube = Grid.centered((side, side, side), spacing_mm, content.center_world)
        self.points = cube.points_world().reshape(1, -1, 3)
        self.seen = fixed.sample(self.points, spacing_mm)[:, 0]
        self.moving, self.transform, self.center = moving, transform, content.center_world
        self.spacing_mm = spacing_mm * growth
        self.known = fixed.known(self.points)

    def __call__(self, poses: Float[Tensor, "k 3 4"]) -> Float[Tensor, " k"]:
        chunk = len(poses) if poses.is_cuda else CHUNK
        ratios = []
        for some in poses.split(chunk):
            points = apply_affine(_matrix(some, self.center), self.points.expand(len(some), -1, -1))
            mapped = self.transform(points)
            warped = self.moving.sample(mapped, self.spacing_mm)[:, 0]
            ratios.append(self._ratio(warped, self.moving.known(mapped)))
        return torch.cat(ratios) - UPRIGHT * _turn(poses[:, :, :3])

    def _ratio(self, warped: Float[Tensor, "k n"], known: Bool[Tensor, "k n"] | None) -> Float[Tensor, " k"]:
        """The correlation ratio of what both images may show, less where that is little."""
        both = [part for part in (self.known, known) if part is not None]
        if not both:
            return correlation_ratio(self.seen, warped)
        weight = functools.reduce(torch.logical_and, both).float()
        content = foreground(self.seen).float()
        common = (weight * content).sum(1) / content.sum().clamp(min=1)
        return correlation_ratio(self.seen, warped, weight) * (common / LEAST_COMMON).clamp(max=1)


def rotations(count: int) -> Float[Tensor, "k 3 3"]:
    """Rotations spread evenly over all there are: super-Fibonacci spirals (Alexa, CVPR 2022)."""
    share = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    inner, outer = share.sqrt(), (1 - share).sqrt()
    turn = 2 * math.pi * count * share
    alpha, beta = turn / math.sqrt(2), turn / 1.533751168755204
    x, y, z, w = inner * alpha.sin(), inner * alpha.cos(), outer * beta.sin(), outer * beta.cos()
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], 1)


def _turn(linear: Float[Tensor, "k 3 3"]) -> Float[Tensor, " k"]:
    """How far rotations, times a scale, are from none: 0 to 1 for half a turn."""
    cosine = (linear.diagonal(dim1=1, dim2=2).sum(1) / torch.linalg.det(linear).pow(1 / 3) - 1) / 2
    return ((1 - cosine) / 2).float()


@functools.lru_cache(maxsize=64)
def _steps(
    step: float, radius_mm: float, device: torch.device
) -> tuple[Float[Tensor, "s 3 3"], Float[Tensor, "s 3"]]:
    """No step, then one to either side along each of seven directions: linear parts and shifts."""
    axes = torch.eye(3, dtype=torch.float64)
    linear, shift = axes.repeat(15, 1, 1), axes.new_zeros(15, 3)
    both = torch.cat([axes, -axes])
    linear[1:7] = exponential(skew(step * TURN * both))
    shift[7:13] = step * SHIFT * radius_mm * both
    linear[13] *= math.exp(step * GROWTH)
    linear[14] *= math.exp(-step * GROWTH)
    return linear.to(device), shift.to(device)


def _matrix(poses: Float[Tensor, "k 3 4"], center: Float[Tensor, "1 3"]) -> Float[Tensor, "k 4 4"]:
    """A pose turns and scales about the centre and shifts."""
    return from_translation(poses[:, :, 3]) @ about_point(poses[:, :, :3], center.expand(len(poses), 3))
