"""Packaged models and model files: what is there, and which files are trusted."""

import functools
import os
import re
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from patchmorph.errors import PatchMorphError, problems
from patchmorph.io.paths import AnyPath, as_path
from patchmorph.io.tensors import (
    check_finite,
    check_header,
    half_precision,
    read_header,
    read_tensors,
    write_tensors,
)
from patchmorph.networks.brain_mask import BrainMask
from patchmorph.networks.contract import check_answer
from patchmorph.networks.devices import choose_device
from patchmorph.networks.listed import OPTIONS, check_options
from patchmorph.networks.model import ModelSpec, PatchMorphModel
from patchmorph.networks.skeleton import WithoutWeights

AUTO = "auto"
"""Stands for the packaged model that suits the pair: one of the next two."""
SAME_CONTRAST, ANY_CONTRAST = "t1-brain", "brain-any-contrast"
NO_MODEL = "none"
"""Stands for registration without a network."""
BRAIN_MASK = "parts/brain-mask"
"""The packaged network that finds the brain in a head; not a model that one can register with."""
TRUST_VARIABLE = "PATCHMORPH_TRUST"
"""Environment variable with classes, as ``MODULE:CLASS`` and separated by commas, that model files may name
beside the networks on our list. Naming a class imports its module, and a file must not choose what runs."""
CLASS = re.compile(r"[\w.]+:\w+")


def packaged_models() -> dict[str, Path]:
    """Name and file of each model that comes with the package."""
    return {path.stem: path for path in sorted(_folder().glob("*.safetensors"))}


def load_model(name: AnyPath, device: str = "auto", trust: Sequence[str] = ()) -> PatchMorphModel:
    """A packaged model by name, or any model by its file.

    A file is checked before anything that it names is imported, and before any of its tensors is read: its
    schedule, its networks and their options, then the names and shapes of its tensors. Networks that are not
    ours, or have options, are also run once on empty patches.

    Args:
        name: of a packaged model, or a path.
        device: see `choose_device`.
        trust: classes, as ``MODULE:CLASS``, that the file may name beside the networks on our list.

    Raises:
        PatchMorphError: no such model, or a file that is none or names a class that nobody trusts.
    """
    chosen, path = choose_device(device), _model_path(name)
    header, metadata = read_header(path)
    spec = _checked_spec(metadata, trusted_classes(trust), path)
    listed = {network.name for network in spec.networks} <= OPTIONS.keys()
    with WithoutWeights() if listed else nullcontext():
        model = PatchMorphModel(spec)
    check_header(header, model.state_dict(), path)
    _load_weights(model, path)
    if any(":" in network.name or network.options for network in spec.networks):  # else they are known to fit
        for network in filter(None, (model.affine, model.dense[0])):
            check_answer(network, spec.patch_size, affine=network is model.affine)
    return model.to(chosen, memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload]


def load_spec(name: AnyPath, trust: Sequence[str] = ()) -> ModelSpec:
    """The specification of a model without its weights; see `load_model`."""
    path = _model_path(name)
    return _checked_spec(read_header(path)[1], trusted_classes(trust), path)


def _model_path(name: AnyPath) -> Path:
    packaged = packaged_models()
    path = packaged.get(str(name), as_path(name, "model"))
    if not path.is_file():
        raise PatchMorphError(f"model must be one of {', '.join(packaged) or 'none'} or a file, got {name}")
    return path


def trusted_classes(trust: Sequence[str]) -> frozenset[str]:
    """The classes of ``trust`` and of the environment variable.

    Raises:
        PatchMorphError: one is not ``MODULE:CLASS``; packages cannot be trusted as a whole.
    """
    stated = (*trust, *os.environ.get(TRUST_VARIABLE, "").split(","))
    named = [name.strip() for name in stated if name.strip()]
    for name in named:
        if not CLASS.fullmatch(name):
            raise PatchMorphError(f"trust (--trust, {TRUST_VARIABLE}) must name MODULE:CLASS, got {name}")
    return frozenset(named)


def _checked_spec(metadata: dict[str, Any], trusted: frozenset[str], path: Path) -> ModelSpec:
    """The specification in a model file; its networks are trusted, or on our list with options that fit."""
    try:
        spec = ModelSpec.model_validate(metadata.get("spec"))
    except ValidationError as error:
        raise PatchMorphError(
            f"model file must hold a PatchMorph model, got {problems(error)} in {path}"
        ) from None
    for network in spec.networks:
        if network.name in OPTIONS and network.name not in trusted:
            check_options(network.name, network.options, str(path))
        elif ":" in network.name and network.name not in trusted:
            raise PatchMorphError(
                f"model file must name networks on our list, got {network.name} in {path} "
                f"(if you trust its code: --trust {network.name})"
            )
    return spec


def _load_weights(model: PatchMorphModel, path: Path) -> None:
    """Give a model the weights of a file, in its own precision."""
    own = model.state_dict()
    tensors = {name: tensor.to(own[name].dtype, copy=True) for name, tensor in read_tensors(path)[0].items()}
    check_finite(tensors, path)
    model.load_state_dict(tensors, assign=True)


def save_model(model: PatchMorphModel, path: Path, half: bool = False) -> None:
    """Write a model file; ``half`` stores float16, which halves its size."""
    tensors = model.state_dict()
    write_tensors(path, half_precision(tensors) if half else tensors, {"spec": model.spec.model_dump()})


@functools.lru_cache(maxsize=2)
def cached_model(name: str, device: str) -> PatchMorphModel:
    """A packaged model that stays in memory for the next pair; one on CUDA is ready for its first patches."""
    model = load_model(name, device)
    if model.device.type == "cuda":
        model.warm_up()
    return model


@functools.lru_cache(maxsize=4)
def load_brain_mask(device: torch.device) -> BrainMask:
    """The packaged network that finds the brain."""
    network = BrainMask()
    tensors, _ = read_tensors(_folder() / f"{BRAIN_MASK}.safetensors")
    network.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    return network.to(device, memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload]


def _folder() -> Path:
    return Path(str(resources.files("patchmorph") / "models"))
