"""A training small enough for a test: two images, patches of 16³, networks of a few channels."""

from dataclasses import fields, replace

import torch

from patchmorph.training.augmentation.draw import Draw
from patchmorph.training.config import Augmentation, TrainingConfig
from patchmorph.training.gradients import FlatGradients, add_gradients
from patchmorph.training.step import chain_losses

CPU = torch.device("cpu")
SPACINGS = [12.0, 6.0]
UNET = {"name": "unet", "options": {"encoder": [4, 8], "decoder": [8, 4]}}
MODEL = {
    "patch_size": 16,
    "precision": "fp32",  # what is trained and what is loaded lie differently in memory, and bf16 shows it
    "spacings_mm": SPACINGS,
    "affine": {"name": "affine-encoder", "options": {"channels": [4, 8], "hidden": 8}},
    "dense": UNET,
}
STILL = Augmentation(
    rotation_deg=0,
    scale=0,
    anisotropy=0,
    shear=0,
    shift_mm=0,
    coarse_mm=0,
    fine_mm=0,
    mirror=False,
    gamma=0,
    gain=0,
)
"""No change at all."""
EXACT = {"start_mm": 0.0, "root_mm": 0.0}
"""Pairs that start where they should."""


def config(folder=".", model=(), **sections) -> TrainingConfig:
    """A configuration whose data source nobody reads."""
    content = {
        "model": {**MODEL, **dict(model)},
        "data": {"images": ["unused"]},
        "run": {"output": "run"},
        "folder": folder,
    }
    return TrainingConfig.model_validate(content | sections)


def draw(same_person=1.0, batch=3, seed=0, scales=2, images=2) -> Draw:
    return Draw.sample(images, batch, scales, same_person, torch.Generator().manual_seed(seed))


def still_draw(same_person=1.0, batch=1, **changes) -> Draw:
    """A draw that changes nothing: zeros, no mirror, patches in the middle of their parents."""
    drawn = draw(same_person, batch)
    indices = ("fixed_index", "moving_index")
    zeros = {f.name: 0 * getattr(drawn, f.name) for f in fields(Draw) if f.name not in indices}
    return replace(drawn, **{**zeros, "mirror": torch.ones(batch), **changes})


def all_terms(model, cohort, drawn, configuration) -> dict[str, torch.Tensor]:
    """Every term of every stage, one value a chain, and their sum as ``loss``."""
    stages = list(chain_losses(model, cohort, drawn, configuration))
    terms = {name: value for _, more in stages for name, value in more.items()}
    return terms | {"loss": torch.stack([loss for loss, _ in stages]).sum(0)}


def gradient(model, cohort, drawn, configuration) -> torch.Tensor:
    """Of the mean loss of a batch, all parameters in one vector."""
    flat = FlatGradients(model)
    add_gradients(model, cohort, drawn, configuration)
    return flat.buffer
