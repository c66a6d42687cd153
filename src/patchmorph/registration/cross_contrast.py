"""Registration of two images whose contrasts may differ, by a model for one contrast and a model for any.

The same-contrast model is more accurate where the contrasts are one, and follows wrong edges where they
differ. So its map is used where the images then agree very well, or where the map of the any-contrast model
shows that bright corresponds to bright. Otherwise the images are brought into one contrast first: once they
are roughly aligned, the mean intensity of one image wherever the other has one value maps the other into
its contrast (the relation that the correlation ratio measures; Roche et al., MICCAI 1998). All detail stays,
since every voxel is mapped alike. Both directions are tried. If the images then agree as those of one
contrast do, the same-contrast model registers them. If they do not (intensities were lost, or noise, scanner
or species differ too much), the images as given refine the map by what any two contrasts share: mutual
information and self-similarity (docs/decisions/009).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from patchmorph.images.foreground import BACKGROUND, foreground
from patchmorph.images.intensity import Curve
from patchmorph.networks.model import PatchMorphModel
from patchmorph.objective.similarity import mutual_information
from patchmorph.registration.acceptance import CONTRAST
from patchmorph.registration.options import RegistrationOptions
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.pipeline import History, refine
from patchmorph.registration.result import Registration
from patchmorph.registration.schedule import (
    RESTARTS,
    cross_contrast_refinement_schedule,
    detail_schedule,
    refinement_schedule,
    schedule,
)
from patchmorph.transforms.base import Transform

IN_ONE = "in the contrast of the other"
REFINED = "the map is refined by what two contrasts share (--refine 0 leaves that out)"
BINS = 48
"""Knots of the curve that maps intensities."""
KERNEL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""Smooths the means over bins."""
POINTS = 96
"""Points along the longest side of the fixed content's box in which contrasts are compared."""

Side = Literal["fixed", "moving"]
SIDES: tuple[Side, ...] = ("moving", "fixed")


@dataclass(frozen=True)
class Models:
    """The two models by the names that notes call them by; each is loaded when it is needed."""

    load: Callable[[str], PatchMorphModel]
    same_name: str
    any_name: str

    @property
    def same_contrast(self) -> PatchMorphModel:
        """The model for images of one contrast."""
        return self.load(self.same_name)

    @property
    def any_contrast(self) -> PatchMorphModel:
        """The model for any two contrasts."""
        return self.load(self.any_name)


@dataclass(frozen=True)
class Candidate:
    """A map, and how it was found.

    Attributes:
        pair: the images that were compared.
        model: whose networks found the map.
        history: the maps.
        note: for the user.
    """

    pair: PreparedPair
    model: PatchMorphModel
    history: History
    note: str

    @classmethod
    def run(
        cls,
        pair: PreparedPair,
        history: History,
        model: PatchMorphModel,
        options: RegistrationOptions,
        note: str,
        restarts: int = 0,  # no gain with two contrasts
    ) -> "Candidate":
        """Register ``pair`` by the networks of ``model``."""
        stages = schedule(model, pair, options.without_refinement(), restarts)
        return cls(pair, model, refine(pair, history, stages), note)

    @property
    def transform(self) -> Transform:
        """The map."""
        return self.history[-1]


@torch.no_grad()
def register_any_contrast(
    pair: PreparedPair, history: History, models: Models, options: RegistrationOptions
) -> Registration:
    """Register two images of one contrast or of two; the notes say which, and how.

    Networks run with the options of the registration; refinement runs once, on the map that is accepted.

    Args:
        pair: on the device of the models.
        history: the maps so far, the last the pose.
        models: the two models.
        options: see there.
    """
    direct = None
    if CONTRAST.may_be_one(pair.agreement(history[-1])):
        note = f"the contrasts are alike: model {models.same_name}"
        direct = Candidate.run(pair, history, models.same_contrast, options, note, RESTARTS)
        if _is_one(direct, options):
            return _refined(pair, direct, options)
    differ = f"the contrasts differ: model {models.any_name}"
    rough = Candidate.run(pair, history, models.any_contrast, options, differ)
    if direct and CONTRAST.is_linear(pair.agreement(rough.transform, POINTS)):
        return _refined(pair, direct, options)
    best = _best_candidate(rough, history, models, options)
    if best.model is models.same_contrast or not options.refines_between_contrasts:
        return _refined(pair, best, options)
    history = refine(pair, best.history, cross_contrast_refinement_schedule(best.model, pair, options))
    finer = detail_schedule(best.model, best.pair, options)
    return Registration(pair, refine(best.pair, history, finer), (best.note, REFINED))


def _is_one(candidate: Candidate, options: RegistrationOptions) -> bool:
    """Whether the images that a candidate compared have one contrast under its map.

    A linear map leaves two brains different, so only the shape of the relation counts there.
    """
    accepts = CONTRAST.is_linear if options.is_linear else CONTRAST.is_one
    return accepts(candidate.pair.agreement(candidate.transform, POINTS))


def _best_candidate(
    rough: Candidate, history: History, models: Models, options: RegistrationOptions
) -> Candidate:
    """The map of the same-contrast model where one image can be brought into the contrast of the other.

    Elsewhere it follows wrong edges. Then, of the rough map and the two with one image about in the contrast
    of the other, the one under which the images as given have most information in common.
    """
    pair = rough.pair

    def remapped(side: Side, known: Candidate, model: PatchMorphModel, by: str) -> Candidate:
        in_one, note = in_one_contrast(pair, known.transform, side), f"{by} with the {side} image {IN_ONE}"
        return Candidate.run(in_one, (*history, known.transform.affine_part()), model, options, note)

    def information(candidate: Candidate) -> float:
        return shared_information(pair, candidate.transform)

    by_side = {side: remapped(side, rough, models.any_contrast, f"{rough.note},") for side in SIDES}
    side = max(SIDES, key=lambda side: information(by_side[side]))
    better = by_side[side]
    if _is_one(better, options):
        return remapped(side, better, models.same_contrast, f"{rough.note}, then {models.same_name}")
    return max((rough, *by_side.values()), key=information)


def _refined(pair: PreparedPair, found: Candidate, options: RegistrationOptions) -> Registration:
    """The registration of an accepted candidate, refined on the images that it compared."""
    stages = refinement_schedule(found.model, found.pair, options)
    stages += detail_schedule(found.model, found.pair, options)
    return Registration(pair, refine(found.pair, found.history, stages), (found.note,))


def shared_information(pair: PreparedPair, transform: Transform) -> float:
    """Normalised mutual information of the images as given, 0 to 1."""
    return 1 - float(mutual_information(*pair.sampled(transform, POINTS)))


def in_one_contrast(pair: PreparedPair, transform: Transform, side: Side) -> PreparedPair:
    """``pair`` with the image of one ``side`` in the contrast of the other, under a rough map."""
    fixed, warped = pair.sampled(transform, POINTS)
    both = foreground(fixed) & foreground(warped)
    own, other = (warped, fixed) if side == "moving" else (fixed, warped)
    curve = Curve(mean_by_intensity(own[both], other[both]), BACKGROUND)
    return replace(pair, **{side: getattr(pair, side).with_contrast(curve)})


def mean_by_intensity(of: Float[Tensor, " n"], values: Float[Tensor, " n"]) -> Float[Tensor, " b"]:
    """Mean of ``values`` at `BINS` equal steps of ``of`` from 0 to 1; empty bins copy a neighbour."""
    place = of.clamp(0, 1) * (BINS - 1)
    lower = place.floor().clamp(max=BINS - 2).long()
    upper_weight = place - lower
    sums = torch.zeros(2, BINS, device=of.device)
    for index, weight in ((lower, 1 - upper_weight), (lower + 1, upper_weight)):
        sums[0].index_add_(0, index, weight)
        sums[1].index_add_(0, index, weight * values)
    kernel = torch.tensor(KERNEL, device=of.device)[None, None]
    counts, totals = functional.conv1d(sums[:, None], kernel, padding=len(KERNEL) // 2)[:, 0]
    steps = torch.arange(BINS, device=of.device)
    filled = steps[counts > 1]
    nearest = filled[(steps[:, None] - filled).abs().argmin(1)] if len(filled) else steps
    return totals[nearest] / counts[nearest].clamp(min=1)
