"""Files of tensors (safetensors) with JSON metadata: models, checkpoints and transforms. Never pickle."""

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
    """Write tensors and JSON-serializable ``metadata`` to one file.

    Raises:
        PatchMorphError: ``path`` cannot be written; an existing file is then kept.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        try:
            save_file(contiguous, temporary, {KEY: json.dumps(metadata)})
            temporary.chmod(0o644)  # safetensors creates files that only their owner can read
        except SafetensorError as error:  # raised for a full disk
            raise OSError(error) from None


def read_tensors(path: Path, what: str = "model") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of `write_tensors` onto the CPU; ``what`` names it in messages.

    Raises:
        PatchMorphError: no such file, or not a PatchMorph file.
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
    """The same tensors with floating-point ones as float16, as in packaged models."""
    return {name: t.to(torch.float16) if t.is_floating_point() else t for name, t in tensors.items()}
