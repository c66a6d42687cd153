"""Packaged models and model files: what is there, and which files are trusted."""

import functools
import os
from importlib import resources
from pathlib import Path

import torch
from pydantic import ValidationError

from patchmorph.errors import PatchMorphError
from patchmorph.io.tensors import half_precision, read_tensors, write_tensors
from patchmorph.networks.brain_mask import BrainMask
from patchmorph.networks.devices import choose_device
from patchmorph.networks.model import ModelSpec, PatchMorphModel

AUTO = "auto"
"""Stands for the packaged model that suits the pair: one of the next two."""
SAME_CONTRAST, ANY_CONTRAST = "t1-brain", "brain-any-contrast"
NO_MODEL = "none"
"""Stands for registration without a network."""
BRAIN_MASK = "parts/brain-mask"
"""The packaged network that finds the brain in a head; not a model that one can register with."""
TRUSTED_PACKAGES = {"monai"}
TRUST_VARIABLE = "PATCHMORPH_TRUST"
"""Packages whose networks a model file may name, and an environment variable for more (separated by commas).
Naming a network imports it, and a file from elsewhere must not choose what runs."""


def packaged_models() -> dict[str, Path]:
    """Name and file of each model that comes with the package."""
    return {path.stem: path for path in sorted(_folder().glob("*.safetensors"))}


def load_model(name: str | os.PathLike, device: str = "auto") -> PatchMorphModel:
    """A packaged model by name, or any model by its file.

    Raises:
        PatchMorphError: no such model, or a file that is none.
    """
    chosen = choose_device(device)
    packaged = packaged_models()
    path = packaged.get(str(name), Path(name))
    if not path.is_file():
        raise PatchMorphError(f"model must be one of {', '.join(packaged) or 'none'} or a file, got {name}")
    tensors, metadata = read_tensors(path)
    _check_trust(metadata.get("spec"), path)
    try:
        model = PatchMorphModel(ModelSpec.model_validate(metadata.get("spec")))
        model.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    except (ValidationError, RuntimeError) as error:
        summary = str(error).splitlines()[0]
        raise PatchMorphError(f"model file must hold a PatchMorph model, got {path}: {summary}") from None
    return model.to(chosen).eval()


def save_model(model: PatchMorphModel, path: Path, half: bool = False) -> None:
    """Write a model file; ``half`` stores float16, which halves its size."""
    tensors = model.state_dict()
    write_tensors(path, half_precision(tensors) if half else tensors, {"spec": model.spec.model_dump()})


@functools.lru_cache(maxsize=2)
def cached_model(name: str, device: str) -> PatchMorphModel:
    """A packaged model that stays in memory for the next pair."""
    return load_model(name, device)


@functools.lru_cache(maxsize=4)
def load_brain_mask(device: torch.device) -> BrainMask:
    """The packaged network that finds the brain."""
    network = BrainMask()
    tensors, _ = read_tensors(_folder() / f"{BRAIN_MASK}.safetensors")
    network.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    return network.to(device, memory_format=torch.channels_last_3d).eval()  # type: ignore[call-overload]


def _folder() -> Path:
    return Path(str(resources.files("patchmorph") / "models"))


def _check_trust(spec: object, path: Path) -> None:
    """Refuse a file that asks for code of a package which nobody trusted."""
    trusted = TRUSTED_PACKAGES | set(filter(None, os.environ.get(TRUST_VARIABLE, "").split(",")))
    for kind in ("affine", "dense"):
        network = spec.get(kind) if isinstance(spec, dict) else None
        name = str(network.get("name", "")) if isinstance(network, dict) else ""
        package = name.partition(":")[0].partition(".")[0]
        if ":" in name and package not in trusted:
            raise PatchMorphError(
                f"model file must use networks of trusted packages, got {name} in {path} "
                f"(if you trust it: {TRUST_VARIABLE}={package})"
            )
