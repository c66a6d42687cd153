"""Registration of one pair."""

from dataclasses import dataclass

import torch

from patchmorph.errors import PatchMorphError
from patchmorph.registration.affine_refinement import AffineRefinementStage
from patchmorph.registration.content import Content, find_content
from patchmorph.registration.model import ModelSpec, PatchMorphModel
from patchmorph.registration.pose import PoseStage
from patchmorph.registration.refinement import RefinementStage
from patchmorph.registration.result import Registration
from patchmorph.registration.stages import Stage, schedule
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.image import Image
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform


@dataclass(frozen=True)
class Options:
    """What a user may choose.

    Attributes:
        refine: how often, at most, refinement sees every part of the pair on each scale; 0: no refinement.
        jitter: shift the networks' patches at random instead of a regular lattice.
        uncertainty: keep how far overlapping patches are from agreeing (see `Registration.uncertainty`).
        seed: of every random draw.
    """

    refine: int = 0
    jitter: bool = False
    uncertainty: bool = False
    seed: int = 0


@torch.no_grad()
def register(
    fixed: Image, moving: Image, model: PatchMorphModel | None, options: Options = Options()
) -> Registration:
    """Find the map from the world of ``fixed`` to the world of ``moving``.

    The images may differ in shape, spacing, orientation and pose. The map starts as the shift between their
    centres of mass and is refined by one stage after the other, on the device that ``model`` lies on: a
    search over poses, affine and dense stages of the networks, coarse to fine, then refinement on the finest
    scale. Without networks, affine and dense refinement from the coarsest scale on follow the search, where
    ``fixed`` lies.

    Args:
        fixed: one channel, any intensities.
        moving: likewise.
        model: networks and schedule, or ``None``: no networks, and the default schedule.
        options: see there.

    Raises:
        PatchMorphError: an image is empty, not finite or has several channels.
    """
    if model is None and options.uncertainty:
        raise PatchMorphError("uncertainty must come from the patches of a network, got no model")
    for image in (fixed, moving):
        if image.data.shape[1] != 1:
            raise PatchMorphError(f"image must have one channel, got {image.data.shape[1]} in {image.name}")
    device = fixed.grid.device if model is None else model.device
    fixed, moving = fixed.to(device), moving.to(device)
    fixed_seen, moving_seen = fixed.normalized(), moving.normalized()
    content = find_content(fixed_seen)
    moving_content = find_content(moving_seen)
    shift = moving_content.center_world - content.center_world
    history: list[Transform] = [AffineTransform.translation(shift)]
    for stage in [PoseStage(content, moving_content), *_stages(model, content, options)]:
        history.append(stage.refine(fixed_seen, moving_seen, history[-1]))
    return Registration(fixed, moving, history[-1], tuple(history))


def _stages(model: PatchMorphModel | None, content: Content, options: Options) -> list[Stage]:
    generator = torch.Generator().manual_seed(options.seed)
    spec = ModelSpec() if model is None else model.spec
    spacings_mm = spec.spacings_for(content.radius_mm)
    if model is None:
        side = spec.patch_size
        patch = Grid.centered((side, side, side), spacings_mm[0], content.center_world)
        stages: list[Stage] = [AffineRefinementStage(patch, spacings_mm[0])]
    else:
        model.eval()
        stages = schedule(model, content, generator if options.jitter else None, options.uncertainty)
        spacings_mm = spacings_mm[-1:]  # coarser ones gain nothing then (docs/decisions/008)
    if options.refine:
        stages += [RefinementStage(content, mm, options.refine, generator) for mm in spacings_mm]
    return stages
