"""Registration of one pair."""

import torch

from patchmorph.errors import PatchMorphError
from patchmorph.registration.content import find_content
from patchmorph.registration.model import PatchMorphModel
from patchmorph.registration.result import Registration
from patchmorph.registration.stages import schedule
from patchmorph.spatial.image import Image
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform


@torch.no_grad()
def register(
    fixed: Image, moving: Image, model: PatchMorphModel, jitter: torch.Generator | None = None
) -> Registration:
    """Find the map from the world of ``fixed`` to the world of ``moving``.

    The images may differ in shape, spacing and orientation. The map starts as the shift between their centres
    of mass and is refined by one stage after the other, on the device that ``model`` lies on.

    Args:
        fixed: one channel, any intensities.
        moving: likewise.
        model: networks and schedule.
        jitter: if given, draws random shifts of the patches instead of a regular lattice.

    Raises:
        PatchMorphError: an image is empty, not finite or has several channels.
    """
    for image in (fixed, moving):
        if image.data.shape[1] != 1:
            raise PatchMorphError(f"image must have one channel, got {image.data.shape[1]} in {image.name}")
    fixed, moving = fixed.to(model.device), moving.to(model.device)
    fixed_seen, moving_seen = fixed.normalized(), moving.normalized()
    content = find_content(fixed_seen)
    shift = find_content(moving_seen).center_world - content.center_world
    history: list[Transform] = [AffineTransform.translation(shift)]
    model.eval()
    for stage in schedule(model, content, jitter):
        history.append(stage.refine(fixed_seen, moving_seen, history[-1]))
    return Registration(fixed, moving, history[-1], tuple(history))
