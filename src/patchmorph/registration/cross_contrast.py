"""Registration by two models, one for images of one contrast and one for any, whatever the images are.

The model for one contrast sees more in it, but follows wrong edges in any other. So it is believed where the
two images agree very well, or where the map of the other model tells that bright goes with bright. Else the
images are brought into one contrast first: once they lie roughly on each other, the mean intensity of one
wherever the other has one value turns the other into its contrast (the relation that the correlation ratio
measures; Roche et al., MICCAI 1998). All detail stays, since every voxel is mapped alike. Which of the two to
turn, nobody says: both are tried. At the end the images as they are refine the map by what any two contrasts
share, their own structure and mutual information (docs/decisions/009).
"""

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.images.foreground import foreground
from patchmorph.images.in_memory import Image
from patchmorph.networks.model import PatchMorphModel
from patchmorph.objective.similarity import mutual_information
from patchmorph.registration.brain import Subject
from patchmorph.registration.pair import Relation, Start
from patchmorph.registration.pipeline import Options, proceed
from patchmorph.registration.result import Registration
from patchmorph.registration.stages.velocity_refinement import RefinementStage
from patchmorph.spatial.grid import Grid, triple
from patchmorph.transforms.base import Transform
from patchmorph.transforms.jacobian import jacobian_determinant, log_determinant

ACCEPTED = 0.9
"""Squared correlation of the images, after the model for one contrast, above which they have one: T1 of one
scanner 0.92 to 0.94, of two 0.81 to 0.87, other contrasts at most 0.91 (docs/decisions/009)."""
STRAIGHT = 0.95
"""Least share of a rising straight line in their relation after the other model: T1 of any scanner 0.95 to 1,
other contrasts at most 0.95, mostly below 0.9."""
ROUGHER = 1.2
"""A last map is not believed if it bends by so much more than the one before: 0.9 to 1.1 where it is better,
1.4 where it is worse."""
REFINED_BY = (("mi", 10), ("mind", 10))
"""What the images, as they are, refine the map by at the end, and how many passes of each: loss of aseg Dice
under random curves 0.041 before, 0.027 after; marmoset heads 0.54 to 0.47 mm (docs/decisions/009)."""
REFINED = "the map is refined by what two contrasts share (--refine 0 leaves that out)"
BINS = 48
"""Of the intensities that are mapped."""
KERNEL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""Smooths the means over bins."""
EMPTY = 0.02
"""Intensity up to which a voxel is background, which stays zero."""
POINTS = 96
"""Along the longest side of the fixed content's box: where intensities are compared."""


class Way(NamedTuple):
    """A start, the model that went on from it, and what it found."""

    start: Start
    model: PatchMorphModel
    found: Registration

    @classmethod
    def go(cls, start: Start, model: PatchMorphModel) -> "Way":
        """Go it."""
        return cls(start, model, proceed(start, model, restarts=0))  # no gain with two contrasts


@torch.no_grad()
def register_contrasts(
    start: Start,
    same: PatchMorphModel,
    other: PatchMorphModel,
    options: Options,
    names: tuple[str, str],
    finish: bool = True,
) -> Registration:
    """Register two images of one contrast or of two; the notes say which, and how.

    Args:
        start: on the device of the models.
        same: model for the contrast that both images may have.
        other: model for any contrasts.
        options: of the last registration.
        names: of the models, for the notes.
        finish: refine the map of two contrasts at the end (`REFINED_BY`).
    """
    direct = None
    if start.alike:
        direct = proceed(start.noted(f"the contrasts are alike: model {names[0]}"), same, options)
        if relation(start, direct.transform).line > ACCEPTED:
            return direct
    differ = f"the contrasts differ: model {names[1]}"
    rough = Way.go(start.noted(differ), other)
    if direct and relation(start, rough.found.transform).straight > STRAIGHT:
        return direct
    turned = {}
    for side in ("moving", "fixed"):
        noted = start.noted(f"{differ}, with the {side} image in the contrast of the other")
        turned[side] = Way.go(in_one_contrast(noted, rough.found.transform, side), other)
    # By the careful model: maps of the other one agree well even where they are wrong, but bend more then.
    side = max(turned, key=lambda side: shared(start, turned[side].found.transform))
    better = turned[side]
    said = f"{differ}, then {names[0]} with the {side} image in the contrast of the other"
    last = Way.go(in_one_contrast(start.noted(said), better.found.transform, side), same)
    ways = [rough, better]
    if roughness(start, last.found.transform) <= ROUGHER * roughness(start, better.found.transform):
        ways.append(last)
    best = max(ways, key=lambda way: shared(start, way.found.transform))
    found = best.found if options == Options() else proceed(best.start, best.model, options, 0)
    return refined(start, found, best.model, options.seed) if finish else found


def refined(start: Start, found: Registration, model: PatchMorphModel, seed: int) -> Registration:
    """``found`` with a map that is refined by what images of two contrasts share.

    Args:
        start: with the images as they are, whichever of them was turned to find the map.
        found: on which to go on.
        model: its finest voxels are those of the refinement.
        seed: of where its patches lie.
    """
    content = start.fixed_seen.content
    spacing_mm = model.spec.spacings_for(content.radius_mm)[-1]
    history = list(found.history)
    for similarity, passes in REFINED_BY:
        stage = RefinementStage(content, spacing_mm, passes, torch.Generator().manual_seed(seed), similarity)
        history.append(stage.refine(start.fixed_seen.image, start.moving_seen.image, history[-1]))
    missing, notes = start.missing(history[-1]), (*found.notes, REFINED)
    return replace(found, transform=history[-1], history=tuple(history), missing=missing, notes=notes)


def relation(start: Start, transform: Transform) -> Relation:
    """Between the intensities of the two images under a map."""
    fixed, warped = _seen(start, transform)
    both = foreground(fixed) & foreground(warped)
    return Relation.of(fixed[both], warped[both])


def shared(start: Start, transform: Transform) -> float:
    """How much the images, as they are, tell of each other: 0 to 1, by mutual information."""
    return 1 - float(mutual_information(*_seen(start, transform)))


def roughness(start: Start, transform: Transform) -> float:
    """Standard deviation of the logarithm of the Jacobian determinant inside the fixed content."""
    grid = _grid(start)
    content = foreground(start.fixed_seen.image.sample(grid.points_world(), float(grid.spacing_mm.max())))
    return float(log_determinant(jacobian_determinant(transform, grid)[content[0, 0]]).std())


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
    grid = _grid(start)
    points, spacing_mm = grid.points_world(), float(grid.spacing_mm.max())
    fixed = start.fixed_seen.image.sample(points, spacing_mm)
    return fixed, start.moving_seen.image.sample(transform(points), spacing_mm)


def _grid(start: Start) -> Grid:
    lower, upper = start.fixed_seen.content.box_world
    spacing_mm = float((upper - lower).max()) / POINTS
    shape = triple(int(length / spacing_mm) + 1 for length in (upper - lower).tolist())
    return Grid.centered(shape, spacing_mm, (lower + upper)[None] / 2)
