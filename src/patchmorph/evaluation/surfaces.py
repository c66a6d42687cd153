"""Distances between the surfaces of labels, in world units."""

import functools
import itertools
import math
import operator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchmorph.spatial.affine import on_device
from patchmorph.spatial.grid import Grid
from patchmorph.workers import in_order

NEAR_VOXELS = 6
"""Distance, in sides of a cube of a voxel's volume, within which neighbours are tried in turn."""
FIRST_STARTS, STEPS_AT_A_TIME = (0, 1, 7, 19), 32
"""Where the first groups of steps begin, and how many later ones have: most points lie in place or beside."""
PAIRS_AT_A_TIME = 2**22
"""Pairs of points whose distances are in memory at once."""

Distances = dict[int, tuple[Float[Tensor, " n"], Float[Tensor, " m"]]]


def surface(labels: Int[Tensor, "x y z"]) -> Bool[Tensor, "x y z"]:
    """Voxels of labels above 0 with a face towards another label or the border of the array.

    For each label these are the voxels that erosion by the six neighbours removes, as in MONAI.
    """
    found = torch.zeros_like(labels, dtype=torch.bool)
    for axis, count in enumerate(labels.shape):
        differs = labels.narrow(axis, 1, count - 1) != labels.narrow(axis, 0, count - 1)
        found.narrow(axis, 0, count - 1).logical_or_(differs)
        found.narrow(axis, 1, count - 1).logical_or_(differs)
        found.select(axis, 0).fill_(True)
        found.select(axis, count - 1).fill_(True)
    return found & (labels > 0)


def surface_distances_mm(fixed: Int[Tensor, "x y z"], warped: Int[Tensor, "x y z"], grid: Grid) -> Distances:
    """Distances between the surfaces of each label that both images have, by label.

    Args:
        fixed: labels on ``grid``.
        warped: likewise.
        grid: of batch size one, with any spacing and any linear part, sheared ones too.

    Returns:
        For each surface voxel (see `surface`) of the fixed label the distance to the nearest one of the
        warped label, in mm between the centres of voxels, and the other way round. A label that only one
        image has is not there.
    """
    box = _box_of(fixed, warped)
    sides = [torch.where(surface(labels[box]), labels[box], 0) for labels in (fixed, warped)]
    linear = grid.voxel_to_world[0, :3, :3].double()
    there, back = in_order(
        lambda pair: _nearest(pair[0], pair[1], linear), [sides, sides[::-1]], fixed.device
    )
    return {label: (there[label], back[label]) for label in there.keys() & back.keys()}


def hd95_mm(there: Float[Tensor, " n"], back: Float[Tensor, " m"]) -> float:
    """Hausdorff distance (mm) by the 95th percentile: the larger of those of both directions.

    Args:
        there: distances of the points of one surface from the other (see `surface_distances_mm`).
        back: of the points of the other surface from the first.
    """
    if not (len(there) and len(back)):
        return math.nan
    return max(float(np.percentile(side.cpu().numpy(), 95)) for side in (there, back))


def assd_mm(there: Float[Tensor, " n"], back: Float[Tensor, " m"]) -> float:
    """Average symmetric surface distance (mm): the mean over the points of both surfaces (see `hd95_mm`)."""
    count = len(there) + len(back)
    return float(there.double().sum() + back.double().sum()) / count if count else math.nan


def _nearest(
    source: Int[Tensor, "x y z"], target: Int[Tensor, "x y z"], linear: Float[Tensor, "3 3"]
) -> dict[int, Float[Tensor, " _"]]:
    """Distance (mm) of each voxel above 0 of ``source`` from the nearest one of the same label in ``target``.

    Close ones are found by steps of the lattice in the order of their length, the rest by all distances.
    """
    index = source.nonzero()
    label = source[index.unbind(-1)]
    distance = torch.full((len(index),), math.inf, dtype=torch.float64, device=source.device)
    steps, lengths = _steps(linear)
    margin = int(steps.abs().max())
    steps, lengths = on_device(steps, source.device), on_device(lengths, source.device)
    padded = torch.nn.functional.pad(target, (margin,) * 6)
    strides = torch.tensor(padded.stride(), device=source.device)
    place, jumps, flat = ((index + margin) * strides).sum(-1), (steps * strides).sum(-1), padded.flatten()
    open_points = torch.arange(len(index), device=source.device)
    starts = [*FIRST_STARTS, *range(FIRST_STARTS[-1] + STEPS_AT_A_TIME, len(steps), STEPS_AT_A_TIME)]
    for start, end in itertools.pairwise([*starts, len(steps)]):
        jump, length = jumps[start:end], lengths[start:end]
        same = flat[place[open_points, None] + jump] == label[open_points, None]
        hit = same.any(-1)
        distance[open_points[hit]] = length[same[hit].int().argmax(-1)]
        open_points = open_points[~hit]
        if not len(open_points):
            break
    for one in torch.unique(label[open_points]).tolist():
        far = open_points[label[open_points] == one]
        distance[far] = _by_all_pairs(index[far], (target == one).nonzero(), linear)
    known = distance.isfinite()
    label, order = label[known].sort(stable=True)
    ids, counts = label.unique_consecutive(return_counts=True)
    return dict(zip(ids.tolist(), distance[known][order].split(counts.tolist()), strict=True))


def _box_of(*images: Int[Tensor, "x y z"]) -> tuple[slice, ...]:
    """The box of all labels: what lies at its border is surface in the whole array, too."""
    inside = functools.reduce(operator.or_, (labels > 0 for labels in images))
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = inside.any(dim=others).nonzero()[:, 0].tolist() or [0]
        box.append(slice(found[0], found[-1] + 1))
    return tuple(box)


def _steps(linear: Float[Tensor, "3 3"]) -> tuple[Int[Tensor, "n 3"], Float[Tensor, " n"]]:
    """All steps of the lattice up to `NEAR_VOXELS` and their lengths in mm, the shortest first."""
    radius = NEAR_VOXELS * float(torch.linalg.det(linear).abs()) ** (1 / 3)
    # A step of length r changes index i by at most r times the norm of row i of the inverse.
    most = [math.floor(radius * row) for row in torch.linalg.inv(linear).norm(dim=1).tolist()]
    reach = [torch.arange(-count, count + 1, device=linear.device) for count in most]
    steps = torch.cartesian_prod(*reach)
    lengths = (steps.double() @ linear.T).norm(dim=-1)
    kept = lengths <= radius
    order = lengths[kept].argsort()
    return steps[kept][order], lengths[kept][order]


def _by_all_pairs(
    points: Int[Tensor, "n 3"], others: Int[Tensor, "m 3"], linear: Float[Tensor, "3 3"]
) -> Float[Tensor, " n"]:
    """Distance (mm) of each point from the nearest of ``others``; infinite without any."""
    if not len(others):
        return torch.full((len(points),), math.inf, dtype=torch.float64, device=points.device)
    middle, linear = others.double().mean(0), on_device(linear, points.device)
    source, target = ((index - middle) @ linear.T for index in (points, others))
    # |a − b|² without |a|², in float32: enough to choose the nearest, whose distance is computed in float64.
    across, squared = -2 * target.float().T, target.float().square().sum(-1)
    chunks = source.split(max(1, PAIRS_AT_A_TIME // len(others)))
    nearest = torch.cat([torch.addmm(squared, chunk.float(), across).argmin(1) for chunk in chunks])
    return (source - target[nearest]).norm(dim=-1)
