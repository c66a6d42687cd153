"""Pointwise inversion of maps that have no closed-form inverse."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import Transform

TOLERANCE_MM = 2e-4
"""Distance from its target within which a mapped point counts as solved."""
MAX_ITERATIONS = 30
MAX_STEP_RATIO = 2.0
"""Longest step over the smallest error so far: limits the effect of a poor estimate of the slope."""

Points = Float[Tensor, "b n 3"]


@torch.no_grad()
def solve(
    forward: Callable[[Points], Points], targets: Points, start: Points, tolerance_mm: float = TOLERANCE_MM
) -> Points:
    """Solve ``forward(x) = targets`` for x by Broyden's method at each point.

    The fixed-point iteration ``x ← x + (y − φ(x))`` (Chen et al., Medical Physics 2008) contracts only where
    the displacement's gradient is below one. Broyden's update (Mathematics of Computation, 1965) of the
    inverse Jacobian, a 3×3 matrix per point, also converges elsewhere: on real maps to `TOLERANCE_MM` in
    about ten steps (docs/decisions/005). Solved points are not updated further. Where the map folds there may
    be no solution; the best iterate is returned then, and `round_trip_mm` measures its error.

    Args:
        forward: the map, near the identity.
        targets: RAS+ mm.
        start: initial guess of x, RAS+ mm.
        tolerance_mm: distance from the target within which a mapped point counts as solved.
    """
    best = start.clone()
    error = targets - forward(start)
    active = _unsolved(error, tolerance_mm)
    x, error, y = start[:, active], error[:, active], targets[:, active]
    slope = torch.eye(3, device=x.device).expand(*x.shape, 3)
    smallest = error.norm(dim=-1, keepdim=True)
    for _ in range(MAX_ITERATIONS):
        if not len(active):
            break
        step = (slope * error[..., None, :]).sum(-1)
        length = step.norm(dim=-1, keepdim=True)
        step = step * (MAX_STEP_RATIO * smallest / length.clamp(min=1e-9)).clamp(max=1)
        x, previous = x + step, error
        error = y - forward(x)
        slope = _updated(slope, step, previous - error)
        norm = error.norm(dim=-1, keepdim=True)
        best[:, active] = torch.where(norm < smallest, x, best[:, active])
        smallest = torch.minimum(norm, smallest)
        keep = _unsolved(error, tolerance_mm)
        active, x, error, y = active[keep], x[:, keep], error[:, keep], y[:, keep]
        slope, smallest = slope[:, keep], smallest[:, keep]
    return best


def _unsolved(error: Points, tolerance_mm: float) -> Tensor:
    """Indices of points that are not solved in every batch entry (batch entries share their indices)."""
    return torch.nonzero((error.norm(dim=-1) > tolerance_mm).any(0))[:, 0]


def _updated(slope: Tensor, step: Points, gained: Points) -> Tensor:
    """Broyden's update: the inverse Jacobian ``slope`` with which the last step would have been exact."""
    expected = (slope * gained[..., None, :]).sum(-1)
    row = (slope * step[..., :, None]).sum(-2)
    scale = (row * gained).sum(-1)[..., None, None]
    flat = scale.abs() < 1e-12
    change = (step - expected)[..., :, None] * row[..., None, :]
    return torch.where(flat, slope, slope + change / scale.masked_fill(flat, 1.0))


@torch.no_grad()
def round_trip_mm(transform: Transform, inverse: Transform, grid: Grid) -> Float[Tensor, "x y z"]:
    """Distance of ``transform(inverse(y))`` from y, in mm, at every point y of ``grid``.

    At most `TOLERANCE_MM` where the inverse is solved; larger where the transform folds and has no inverse;
    NaN where y is not mapped.
    """
    distance = torch.empty(grid.shape, device=grid.device)
    for box, block in grid.blocks():
        points = block.points_world()
        distance[box.slices] = (transform(inverse(points)) - points).norm(dim=-1)[0]
    return distance
