"""What the frozen outputs take from the package: all of its names that may move stand here, and nowhere else.

A refactor adapts this module and no other in this folder. Names without a comment are public.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch

import patchmorph
from patchmorph import (
    Grid,
    GridPair,
    Image,
    api,  # `cached_model`: the packaged models that ``auto`` chooses from
    folding,
    jacobian_determinant,
    load_image,
    load_model,
    load_transform,
    register,
    resample,
    save_image,
    save_transform,
)
from patchmorph.cli import app as command_line
from patchmorph.cli.display import set_verbosity
from patchmorph.networks import contract  # `_computes_bf16`
from patchmorph.networks.model import ModelSpec, PatchMorphModel
from patchmorph.registration import schedule  # `ModelSpec`: the schedule without a model
from patchmorph.training.augmentation.draw import Draw
from patchmorph.training.config import Data, TrainingConfig
from patchmorph.training.data.cohort import Cohort
from patchmorph.training.data.subjects import Subject
from patchmorph.training.gradients import FlatGradients, add_gradients
from patchmorph.training.step import chain_losses
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.velocity import VelocityField

__all__ = [
    "AffineTransform",
    "Cohort",
    "Data",
    "DisplacementField",
    "Draw",
    "FlatGradients",
    "Grid",
    "GridPair",
    "Image",
    "ModelSpec",
    "PatchMorphModel",
    "Subject",
    "TrainingConfig",
    "VelocityField",
    "add_gradients",
    "chain_losses",
    "command_line",
    "fixed_conditions",
    "folding",
    "heads",
    "jacobian_determinant",
    "load_image",
    "load_model",
    "load_transform",
    "packaged",
    "patchmorph",
    "register",
    "resample",
    "save_image",
    "save_transform",
    "set_verbosity",
    "tiny",
]

find_brain = api.load_brain_mask
COARSE = ModelSpec(patch_size=16, spacings_mm=[12.0, 6.0])
"""The schedule of a registration without a network: that of the package takes a minute."""
TINY = {
    "patch_size": 16,
    "spacings_mm": [12.0, 6.0],
    "passes": [1, 2],
    "affine": {"name": "affine-encoder", "options": {"channels": [4, 8], "hidden": 8}},
    "affine_passes": 2,
    "dense": {"name": "unet", "options": {"encoder": [4, 8], "decoder": [8, 4]}},
}
TOWARDS_TRUTH = [0.16, 0.03, 0.21, -0.06, -0.14, -0.38, -0.08, 0.17, -0.03, 0.0, 0.0, 0.0]
"""The linear part by rows, then the shift, in the units of the affine network's last layer."""


@functools.cache
def tiny() -> PatchMorphModel:
    """Networks of 16³ patches: the affine one is right about one pair, the dense ones have random weights.

    The bias of the affine network is half the logarithm of the affine map from the pose that is found for
    `brains.fixed` and `brains.moving` to their true map, so two passes move points by millimetres towards
    the truth and are accepted. The matrix is far from symmetric: transposed, it leads away.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PatchMorphModel(ModelSpec.model_validate(TINY))
        with torch.no_grad():
            model.affine.generator.weight.normal_(std=1e-3)
            model.affine.generator.bias.copy_(torch.tensor(TOWARDS_TRUTH))
            for network in model.dense:
                network.velocity.weight.normal_(std=0.008)
    return model.eval()


@functools.cache
def packaged(name: str, scales: int = 1) -> PatchMorphModel:
    """A packaged model without its finer scales, which take minutes on one thread."""
    whole = load_model(name, "cpu")
    change = {"spacings_mm": whole.spec.spacings_mm[:scales], "passes": None, "precision": "fp32"}
    model = PatchMorphModel(whole.spec.model_copy(update=change))
    model.load_state_dict(whole.state_dict(), strict=False)
    return model.eval()


@contextmanager
def heads() -> Iterator[None]:
    """The brain is found in each image, as a user has it."""
    with patch.object(api, "load_brain_mask", find_brain):
        yield


@contextmanager
def fixed_conditions() -> Iterator[None]:
    """One thread, networks in float32, and packaged models of one scale: in seconds, on any processor.

    Processors with bf16 units would run networks in bf16, which moves points by 0.05 mm. The network that
    finds the brain takes four fifths of such a registration, so only `heads` runs it.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with (
            patch.object(contract, "_computes_bf16", lambda device: False),
            patch.object(api, "cached_model", lambda name, device: packaged(name)),
            patch.object(api, "load_brain_mask", lambda device: None),
            patch.object(schedule, "ModelSpec", lambda: COARSE),
        ):
            yield
    finally:
        torch.set_num_threads(threads)
