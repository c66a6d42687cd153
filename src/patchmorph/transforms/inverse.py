"""Where a point comes from, for maps that have no formula backwards."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import Transform

TOLERANCE_MM = 2e-4
"""A point counts as found when the map takes it so near to its target."""
ITERATIONS = 30
LONGEST = 2.0
"""Step, in units of the smallest miss so far: keeps a bad slope from throwing a point away."""

Points = Float[Tensor, "b n 3"]


@torch.no_grad()
def solve(
    forward: Callable[[Points], Points], targets: Points, start: Points, tolerance_mm: float = TOLERANCE_MM
) -> Points:
    """x with ``forward(x) = targets``, by a fixed-point iteration that learns its slope at each point.

    The plain iteration ``x ← x + (y − φ(x))`` (Chen et al., Medical Physics 2008) contracts only where the
    displacement's gradient is below one. Broyden's update (Mathematics of Computation, 1965) of the inverse
    slope, a 3×3 matrix a point, converges where that does not: on real maps to `TOLERANCE_MM` in about ten
    steps (docs/decisions/005). Points that are found rest. Where the map folds there may be no x; then the
    best that was met is returned (`round_trip_mm` tells).

    Args:
        forward: the map, near to the identity.
        targets: RAS+ mm.
        start: a first guess at x.
        tolerance_mm: how near is found.
    """
    best = start.clone()
    miss = targets - forward(start)
    active = _far(miss, tolerance_mm)
    x, miss, y = start[:, active], miss[:, active], targets[:, active]
    slope = torch.eye(3, device=x.device).expand(*x.shape, 3)
    least = miss.norm(dim=-1, keepdim=True)
    for _ in range(ITERATIONS):
        if not len(active):
            break
        step = (slope * miss[..., None, :]).sum(-1)
        step = step * (LONGEST * least / step.norm(dim=-1, keepdim=True).clamp(min=1e-9)).clamp(max=1)
        x, missed = x + step, miss
        miss = y - forward(x)
        slope = _updated(slope, step, missed - miss)
        norm = miss.norm(dim=-1, keepdim=True)
        best[:, active] = torch.where(norm < least, x, best[:, active])
        least = torch.minimum(norm, least)
        keep = _far(miss, tolerance_mm)
        active, x, miss, y = active[keep], x[:, keep], miss[:, keep], y[:, keep]
        slope, least = slope[:, keep], least[:, keep]
    return best


def _far(miss: Points, tolerance_mm: float) -> Tensor:
    """Indices of points that miss their targets (in any batch entry, as these stay together)."""
    return torch.nonzero((miss.norm(dim=-1) > tolerance_mm).any(0))[:, 0]


def _updated(slope: Tensor, step: Points, gained: Points) -> Tensor:
    """Broyden's update: the inverse slope by which the last step would have been right."""
    expected = (slope * gained[..., None, :]).sum(-1)
    row = (slope * step[..., :, None]).sum(-2)
    scale = (row * gained).sum(-1)[..., None, None]
    flat = scale.abs() < 1e-12
    change = (step - expected)[..., :, None] * row[..., None, :]
    return torch.where(flat, slope, slope + change / scale.masked_fill(flat, 1.0))


@torch.no_grad()
def round_trip_mm(transform: Transform, inverse: Transform, grid: Grid) -> Float[Tensor, "x y z"]:
    """How far ``transform(inverse(y))`` ends from y, in mm, at every point y of ``grid``.

    Zero up to `TOLERANCE_MM` where the inverse holds; more where the transform folds, so that it has none.
    """
    slabs = []
    for slab in grid.slabs():
        points = slab.points_world()
        slabs.append((transform(inverse(points)) - points).norm(dim=-1)[0])
    return torch.cat(slabs)
