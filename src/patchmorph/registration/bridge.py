"""From any two contrasts to one: for networks that know how one contrast looks, and see more in it.

Once two images lie roughly on each other, the mean intensity of one wherever the other has one value
turns the other into its contrast (the relation that the correlation ratio measures; Roche et al., MICCAI
1998). All detail stays, since every voxel is mapped alike. Which of the two contrasts the networks know,
nobody says: both are tried, and the local correlation of the images as they are tells which map is better.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.objective.similarity import correlation_map
from patchmorph.registration.brain import Subject
from patchmorph.registration.content import foreground
from patchmorph.registration.result import Registration
from patchmorph.registration.start import Start
from patchmorph.spatial.grid import Grid, triple
from patchmorph.spatial.image import Image
from patchmorph.transforms.base import Transform

BINS = 48
"""Of the intensities that are mapped."""
KERNEL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""Smooths the means over bins."""
EMPTY = 0.02
"""Intensity up to which a voxel is background, which stays zero."""
POINTS = 96
"""Along the longest side of the fixed content's box: where intensities are compared."""
AGAIN = 2
"""How often the chosen way is gone again from the better map."""
LEAST_SHARE = 0.98
"""Of the likeness, that must be kept when it is."""
RADIUS = 3
"""Of the local correlation, in those points."""


@torch.no_grad()
def bridged(
    start: Start, rough: Registration, register: Callable[[Start], Registration]
) -> tuple[Registration, str]:
    """The best of ``rough`` and what ``register`` makes of it in the contrast of either image.

    Args:
        start: the pair.
        rough: its registration by networks for any contrast.
        register: by networks for one contrast, from a start on.

    Returns:
        A registration of the pair, and what was done in words.
    """
    best, how, quality = rough, "", likeness(start, rough.transform)
    for side in ("moving", "fixed"):
        found = register(in_one_contrast(start, rough.transform, side))
        if (value := likeness(start, found.transform)) > quality:
            best, how, quality = found, side, value
    for _ in range(AGAIN if how else 0):  # a better map gives a better relation of intensities
        found = register(in_one_contrast(start, best.transform, how))
        if likeness(start, found.transform) < LEAST_SHARE * quality:
            break
        best = found
    said = f"the {how} image was turned into the contrast of the other" if how else "no contrast was turned"
    return replace(best, fixed=start.fixed, moving=start.moving), said


def likeness(start: Start, transform: Transform) -> float:
    """Mean local correlation of the images as they are, where the fixed one has structure: 0 to 1."""
    fixed, warped = _seen(start, transform)
    squared, weight = correlation_map(fixed, warped, RADIUS)
    return float((squared * weight).sum() / weight.sum().clamp(min=1))


def in_one_contrast(start: Start, transform: Transform, side: str) -> Start:
    """``start`` with the image of one ``side`` in the contrast of the other, from the affine part on."""
    fixed, warped = _seen(start, transform)
    both = foreground(fixed) & foreground(warped)
    pair = (fixed[both], warped[both])
    history = (*start.history, transform.parts()[0])
    if side == "moving":
        seen = _turned(start.moving_seen, mean_by_intensity(pair[1], pair[0]))
        return replace(start, moving_seen=seen, history=history)
    seen = _turned(start.fixed_seen, mean_by_intensity(pair[0], pair[1]))
    return replace(start, fixed_seen=seen, history=history)


def mean_by_intensity(of: Float[Tensor, " n"], values: Float[Tensor, " n"]) -> Float[Tensor, " b"]:
    """Mean of ``values`` at `BINS` equal steps of ``of`` from 0 to 1; empty bins copy a neighbour."""
    place = of.clamp(0, 1) * (BINS - 1)
    lower = place.floor().clamp(max=BINS - 2).long()
    share = place - lower
    sums = torch.zeros(2, BINS, device=of.device)
    for index, weight in ((lower, 1 - share), (lower + 1, share)):
        sums[0].index_add_(0, index, weight)
        sums[1].index_add_(0, index, weight * values)
    kernel = torch.tensor(KERNEL, device=of.device)[None, None]
    counts, totals = torch.nn.functional.conv1d(sums[:, None], kernel, padding=len(KERNEL) // 2)[:, 0]
    steps = torch.arange(BINS, device=of.device)
    filled = steps[counts > 1]
    nearest = filled[(steps[:, None] - filled).abs().argmin(1)] if len(filled) else steps
    return totals[nearest] / counts[nearest].clamp(min=1)


def _turned(subject: Subject, means: Float[Tensor, " b"]) -> Subject:
    data = subject.image.data.float()
    place = data.clamp(0, 1) * (BINS - 1)
    lower = place.floor().clamp(max=BINS - 2).long()
    values = means[lower] + (means[lower + 1] - means[lower]) * (place - lower)
    image = subject.image
    turned = Image(torch.where(data > EMPTY, values, 0), image.grid, image.name, image.cuts)
    return replace(subject, image=turned)


def _seen(start: Start, transform: Transform) -> tuple[Tensor, Tensor]:
    """Both images on a grid over the fixed content."""
    lower, upper = start.fixed_seen.content.box_world
    spacing_mm = float((upper - lower).max()) / POINTS
    shape = triple(int(length / spacing_mm) + 1 for length in (upper - lower).tolist())
    points = Grid.centered(shape, spacing_mm, (lower + upper)[None] / 2).points_world()
    fixed = start.fixed_seen.image.sample(points, spacing_mm)
    return fixed, start.moving_seen.image.sample(transform(points), spacing_mm)
