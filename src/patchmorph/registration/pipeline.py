"""Registration of one pair."""

from dataclasses import dataclass

import torch

from patchmorph.errors import PatchMorphError
from patchmorph.images.foreground import Content
from patchmorph.images.in_memory import Image
from patchmorph.networks.model import ModelSpec, PatchMorphModel
from patchmorph.objective.objective import SIMILARITIES
from patchmorph.registration.pair import Start, find_start
from patchmorph.registration.result import Registration
from patchmorph.registration.stages.affine_refinement import AffineRefinementStage
from patchmorph.registration.stages.network import (
    AffineStage,
    DenseStage,
    NearestAffineStage,
    Stage,
    schedule,
)
from patchmorph.registration.stages.velocity_refinement import RefinementStage
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import Transform

KEPT = 0.8
"""Share of the pose's correlation ratio that the affine network must keep: 0.93 to 2.2 of it where that is no
worse, 0.70 and 0.18 where it left the pose by millimetres (docs/decisions/009)."""
RESTARTS = 2
"""How often the dense networks begin again at the affine map nearest to theirs where some of an image is
missing: loss of aseg Dice with a third missing 0.021 without, 0.017 after one, 0.016 after two, 0.015 after
three (docs/decisions/009)."""


@dataclass(frozen=True)
class Options:
    """What a user may choose.

    Attributes:
        refine: how often, at most, refinement sees every part of the pair on each scale; 0: no refinement.
        jitter: shift the networks' patches at random instead of a regular lattice.
        uncertainty: keep how far overlapping patches are from agreeing (see `Registration.uncertainty`).
        seed: of every random draw.
        similarity: what refinement compares the images by: a name in `SIMILARITIES`.

    Raises:
        PatchMorphError: no such similarity.
    """

    refine: int = 0
    jitter: bool = False
    uncertainty: bool = False
    seed: int = 0
    similarity: str = "lncc"

    def __post_init__(self) -> None:
        if self.similarity not in SIMILARITIES:
            raise PatchMorphError(
                f"similarity must be one of {', '.join(SIMILARITIES)}, got {self.similarity}"
            )


def register(
    fixed: Image, moving: Image, model: PatchMorphModel | None, options: Options = Options()
) -> Registration:
    """Find the map from the world of ``fixed`` to the world of ``moving``, which both show brains only.

    `find_start` and `proceed`; see there for what may be chosen between them.

    Args:
        fixed: one channel, any intensities.
        moving: likewise; shape, spacing, orientation and pose may differ.
        model: networks and schedule, or ``None``: no networks, and the default schedule.
        options: see there.

    Raises:
        PatchMorphError: an image is empty, not finite or has several channels.
    """
    device = fixed.grid.device if model is None else model.device
    return proceed(find_start(fixed.to(device), moving.to(device)), model, options)


@torch.no_grad()
def proceed(
    start: Start, model: PatchMorphModel | None, options: Options = Options(), restarts: int = RESTARTS
) -> Registration:
    """Refine a start by one stage after the other.

    These are the affine and dense stages of the networks, coarse to fine, the dense ones several times where
    some of an image is missing, then refinement on the finest scale. Without networks, affine and dense
    refinement from the coarsest scale on.

    Args:
        start: on the device of ``model``.
        model: networks and schedule, or ``None``: no networks, and the default schedule.
        options: see there.
        restarts: of the dense networks, where some of an image is missing (`RESTARTS`).

    Raises:
        PatchMorphError: uncertainty is asked for without a model.
    """
    if model is None and options.uncertainty:
        raise PatchMorphError("uncertainty must come from the patches of a network, got no model")
    history = list(start.history)
    fixed, moving = start.fixed_seen.image, start.moving_seen.image
    whole = not (fixed.outward() or moving.outward())
    for stage in _stages(model, start.fixed_seen.content, options, 0 if whole else restarts):
        found = stage.refine(fixed, moving, history[-1])
        history.append(history[-1] if isinstance(stage, AffineStage) and left_pose(start, found) else found)
    missing = start.missing(history[-1])
    return Registration(start.fixed, start.moving, history[-1], tuple(history), start.notes, missing)


def left_pose(start: Start, affine: Transform) -> bool:
    """Whether an affine network left a good pose: the images then tell far less of each other (`KEPT`)."""
    before, after = start.relation(start.history[-1]), start.relation(affine)
    return before is not None and (after is None or after.any < KEPT * before.any)


def _stages(model: PatchMorphModel | None, content: Content, options: Options, restarts: int) -> list[Stage]:
    generator = torch.Generator().manual_seed(options.seed)
    spec = ModelSpec() if model is None else model.spec
    spacings_mm = spec.spacings_for(content.radius_mm)
    if model is None:
        side = spec.patch_size
        patch = Grid.centered((side, side, side), spacings_mm[0], content.center_world)
        stages: list[Stage] = [AffineRefinementStage(patch, spacings_mm[0], options.similarity)]
    else:
        model.eval()
        stages = schedule(model, content, generator if options.jitter else None, options.uncertainty)
        dense = [stage for stage in stages if isinstance(stage, DenseStage)]
        stages += [NearestAffineStage(content), *dense] * restarts
        spacings_mm = spacings_mm[-1:]  # coarser ones gain nothing then (docs/decisions/008)
    if options.refine:
        stages += [
            RefinementStage(content, mm, options.refine, generator, options.similarity) for mm in spacings_mm
        ]
    return stages
