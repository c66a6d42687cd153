"""Registration of one pair by one model: the pose, then a fold over the stages of the schedule."""

from collections.abc import Sequence

import torch

from patchmorph.heap import return_freed_memory
from patchmorph.images.chunked import StoredImage
from patchmorph.memory import FREED_SHARE, memory_limit
from patchmorph.networks.model import PatchMorphModel
from patchmorph.progress import step
from patchmorph.registration.options import RegistrationOptions
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.preparation import prepare_pair
from patchmorph.registration.result import Registration
from patchmorph.registration.schedule import RESTARTS, detail_schedule, schedule
from patchmorph.registration.stages.base import Stage
from patchmorph.registration.stages.pose import PoseStage
from patchmorph.transforms.base import Transform

DEFAULT = RegistrationOptions()

History = tuple[Transform, ...]
"""The maps so far, the first before any stage and the last after the last stage."""


def register_images(
    fixed: StoredImage,
    moving: StoredImage,
    model: PatchMorphModel | None,
    options: RegistrationOptions = DEFAULT,
) -> Registration:
    """Register two images that both show brains only, by one model.

    Args:
        fixed: one channel, any intensities.
        moving: likewise; shape, spacing, orientation and pose may differ.
        model: networks and schedule, or ``None``: no networks, and the default scales.
        options: see there.

    Raises:
        PatchMorphError: an image is empty, not finite or has several channels.
    """
    device = fixed.grid.device if model is None else model.device
    pair = prepare_pair(fixed.to(device), moving.to(device))
    return register_pair(pair, estimate_pose(pair), model, options)


@torch.no_grad()
def estimate_pose(pair: PreparedPair) -> History:
    """The shift between the centres of mass, and the best pose."""
    return refine(pair, (pair.center_shift(),), [PoseStage()])


@torch.no_grad()
def register_pair(
    pair: PreparedPair,
    history: History,
    model: PatchMorphModel | None,
    options: RegistrationOptions = DEFAULT,
    restarts: int = RESTARTS,
) -> Registration:
    """Register a prepared pair by one model, from the last map of ``history`` on.

    Args:
        pair: on the device of ``model``.
        history: maps so far, such as those of `estimate_pose`.
        model: networks and schedule, or ``None``: no networks, and the default scales.
        options: see there.
        restarts: see `patchmorph.registration.schedule.schedule`.

    Raises:
        PatchMorphError: uncertainty is asked for without a model.
    """
    stages = schedule(model, pair, options, restarts)
    if model is not None:
        stages += detail_schedule(model, pair, options)
    return Registration(pair, refine(pair, history, stages))


def refine(pair: PreparedPair, history: History, stages: Sequence[Stage]) -> History:
    """The fold over the stages: each one refines the map that the one before left."""
    for stage in stages:
        with step(stage.label):
            history = (*history, stage.refine(pair, history[-1]))
        return_freed_memory(memory_limit() // FREED_SHARE)
    return history
