"""Model files: weights as safetensors, everything else as JSON in the file's metadata. Never pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import whole_file

KEY = "patchmorph"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write tensors and JSON-able ``metadata`` to one file.

    Raises:
        PatchMorphError: the file system refuses; what was there before stays.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        try:
            save_file(contiguous, temporary, {KEY: json.dumps(metadata)})
            temporary.chmod(0o644)  # it makes files for their owner only
        except SafetensorError as error:  # how it says that there is no room
            raise OSError(error) from None


def read_tensors(path: Path, what: str = "model") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote, onto the CPU; messages call it ``what``.

    Raises:
        PatchMorphError: no such file, or not one of ours.
    """
    if not path.is_file():
        raise PatchMorphError(f"{what} must be an existing file, got {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get(KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError) as error:
        raise PatchMorphError(f"{what} must be a safetensors file, got {path}: {error}") from None
    if not isinstance(metadata, dict):
        raise PatchMorphError(f"{what} must carry PatchMorph's metadata, got none in {path}")
    return tensors, metadata


def half_precision(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with floats as float16, as packaged models hold them."""
    return {name: t.to(torch.float16) if t.is_floating_point() else t for name, t in tensors.items()}
