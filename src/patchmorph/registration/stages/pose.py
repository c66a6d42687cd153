"""The pose that a registration starts from: rotation, scale and shift, for images in any orientation.

All rotations are compared at a very low resolution; the best are improved step by step at a low one. The
criterion is the correlation ratio, which only asks that one intensity of the fixed image corresponds to one
of the moving image, so it serves any two contrasts.
"""

import functools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patchmorph.images.abstract import AbstractImage
from patchmorph.images.foreground import foreground
from patchmorph.objective.similarity import bin_memberships, explained_fraction
from patchmorph.registration.acceptance import MIN_COMMON_FRACTION, ROTATION_PENALTY
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.stages.base import Stage
from patchmorph.spatial.affine import apply_affine, exponential, from_linear, skew
from patchmorph.spatial.grid import Grid, cube
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.workers import in_order

ROTATIONS = 512
"""Compared at first, besides none: no rotation is further than about 25° from one of them."""
REACH = 1.75
"""Half the side of the cube that is compared, in radii of the fixed content."""
SEARCH_POINTS, IMPROVEMENT_POINTS = 16, 24
"""Points along each side of the cube, for the search and for the improvement."""
CANDIDATES, FINALISTS = 8, 3
"""Poses that are improved, and those of them that are left after two rounds."""
ROUNDS = 5
"""Rounds of improvement, each with half the steps of the one before, and twice each."""
ROTATION_STEP, SHIFT_STEP, SCALE_STEP = math.radians(14), 0.15, 0.08
"""First steps: of rotation, of shift (in radii of the moving content), and of the logarithm of the scale."""
TRUNCATION_SHIFT = 0.4
"""Distance, in radii, between the middle of truncated content and that of the whole, at most."""
CHUNK = 16
"""Poses that are compared at a time on a core of a CPU."""


@dataclass(frozen=True)
class PoseStage(Stage):
    """Finds a similarity transform: rotation, one scale, shift."""

    @property
    def label(self) -> str:
        """What is done."""
        return "search of the pose"

    def refine(self, pair: PreparedPair, transform: Transform) -> Transform:
        """``transform @ similarity``, where ``transform`` maps one centre of mass to the other."""
        assert isinstance(transform, AffineTransform), f"a pose starts from an affine map, got {transform}"
        fixed, moving = pair.fixed.content, pair.moving.content
        scale = moving.radius_mm / fixed.radius_mm
        if pair.is_truncated and 0.5 < scale < 2:
            scale = 1.0  # the radius of a truncated object is not that of the whole
        poses = _all_poses(pair, scale)
        compare = _Comparison(pair, transform, scale, SEARCH_POINTS)
        poses = poses[compare(poses).topk(CANDIDATES).indices]
        compare = _Comparison(pair, transform, scale, IMPROVEMENT_POINTS)
        for k in range(ROUNDS):
            if k == 2:
                poses = poses[compare(poses).topk(FINALISTS).indices]
            for _ in range(2):
                poses = _improved(poses, compare, 0.5**k, moving.radius_mm)
        best = poses[compare(poses).argmax()][None]
        return transform @ AffineTransform(_matrix(best, fixed.center_world))


def _all_poses(pair: PreparedPair, scale: float) -> Float[Tensor, "k 3 4"]:
    """All rotations about the middle of the content, and about where else it may be if it is truncated."""
    fixed, moving = pair.fixed.content, pair.moving.content
    turns = torch.cat([torch.eye(3, dtype=torch.float64)[None], rotations(ROTATIONS)])
    shifts = [torch.zeros_like(turns[:, 0])]
    shifts += [
        -scale * TRUNCATION_SHIFT * fixed.radius_mm * turns @ normal
        for normal in pair.fixed.image.truncation_normals()
    ]
    shifts += [
        TRUNCATION_SHIFT * moving.radius_mm * normal.expand(len(turns), 3)
        for normal in pair.moving.image.truncation_normals()
    ]
    return torch.cat([torch.cat([scale * turns, shift[:, :, None]], dim=2) for shift in shifts])


def _improved(
    poses: Float[Tensor, "k 3 4"], compare: "_Comparison", step: float, radius_mm: float
) -> Float[Tensor, "k 3 4"]:
    """The best neighbour of each pose, or the pose itself."""
    turns, shifts = _steps(step, radius_mm)
    linear = turns @ poses[:, None, :, :3]
    shift = poses[:, None, :, 3] + shifts
    around = torch.cat([linear, shift[..., None]], dim=3)
    best = compare(around.flatten(0, 1)).reshape(len(poses), -1).argmax(1)
    return around[torch.arange(len(poses)), best]


class _Comparison:
    """The criterion of poses: fixed intensities at the points of a cube, and the moving image to compare."""

    def __init__(self, pair: PreparedPair, transform: AffineTransform, scale: float, side: int):
        content = pair.fixed.content
        spacing_mm = 2 * REACH * content.radius_mm / side
        grid = Grid.centered(cube(side), spacing_mm, content.center_world).to(content.device)
        self.points = grid.points_world().reshape(1, -1, 3)
        fixed_values = pair.fixed.image.sample(self.points, spacing_mm)[:, 0]
        self.memberships, self.content = bin_memberships(fixed_values), foreground(fixed_values).float()
        self.fixed_visible = pair.fixed.image.in_field_of_view(self.points)
        self.moving: AbstractImage = pair.moving.image
        self.matrix, self.center = transform.matrix, content.center_world
        self.spacing_mm = spacing_mm * scale

    def __call__(self, poses: Float[Tensor, "k 3 4"]) -> Float[Tensor, " k"]:
        device = self.points.device
        chunks = poses.split(len(poses) if device.type == "cuda" else CHUNK)
        ratios = torch.cat([*in_order(self._ratios, chunks, device)]).cpu()
        return ratios - ROTATION_PENALTY * _half_turns(poses[:, :, :3])

    def _ratios(self, poses: Float[Tensor, "k 3 4"]) -> Float[Tensor, " k"]:
        mapped = apply_affine(self.matrix @ _matrix(poses, self.center), self.points)
        warped = self.moving.sample(mapped, self.spacing_mm)[:, 0]
        return self._ratio(warped, self.moving.in_field_of_view(mapped))

    def _ratio(
        self, warped: Float[Tensor, "k n"], visible: Bool[Tensor, "k n"] | None
    ) -> Float[Tensor, " k"]:
        """The correlation ratio where both images show something, weighted down where that is little."""
        masks = [mask for mask in (self.fixed_visible, visible) if mask is not None]
        if not masks:
            return explained_fraction(self.memberships, warped)
        weight = functools.reduce(torch.logical_and, masks).float()
        common = (weight * self.content).sum(1) / self.content.sum().clamp(min=1)
        ratio = explained_fraction(self.memberships, warped, weight)
        return ratio * (common / MIN_COMMON_FRACTION).clamp(max=1)


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


def _half_turns(linear: Float[Tensor, "k 3 3"]) -> Float[Tensor, " k"]:
    """The angle of rotations, times a scale, as 0 for none to 1 for half a turn."""
    cosine = (linear.diagonal(dim1=1, dim2=2).sum(1) / torch.linalg.det(linear).pow(1 / 3) - 1) / 2
    return ((1 - cosine) / 2).float()


@functools.lru_cache(maxsize=64)
def _steps(step: float, radius_mm: float) -> tuple[Float[Tensor, "s 3 3"], Float[Tensor, "s 3"]]:
    """No step, then one to either side along each of seven directions: linear parts and shifts."""
    axes = torch.eye(3, dtype=torch.float64)
    linear, shift = axes.repeat(15, 1, 1), axes.new_zeros(15, 3)
    both = torch.cat([axes, -axes])
    linear[1:7] = exponential(skew(step * ROTATION_STEP * both))
    shift[7:13] = step * SHIFT_STEP * radius_mm * both
    linear[13] *= math.exp(step * SCALE_STEP)
    linear[14] *= math.exp(-step * SCALE_STEP)
    return linear, shift


def _matrix(poses: Float[Tensor, "k 3 4"], center: Float[Tensor, "1 3"]) -> Float[Tensor, "k 4 4"]:
    """A rotation and scale about the centre, followed by a shift."""
    linear = poses[:, :, :3]
    return from_linear(linear, poses[:, :, 3] + (center - linear @ center[0]))
