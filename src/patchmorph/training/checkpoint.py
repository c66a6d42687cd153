"""Training checkpoints: the whole state of a training run as tensors and JSON, without pickle."""

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.io.tensors import read_tensors, write_tensors
from patchmorph.networks.model import ModelSpec, PatchMorphModel

FILE = "checkpoint.safetensors"


@dataclass
class TrainingState:
    """The mutable state of a training run.

    Attributes:
        model: the networks.
        optimizer: AdamW, with one state per parameter.
        generator: source of every step's draw.
        step: number of completed steps.
        best: best validation result so far.
    """

    model: PatchMorphModel
    optimizer: torch.optim.AdamW
    generator: torch.Generator
    step: int = 0
    best: float | None = None

    def save(self, folder: Path) -> None:
        """Write the checkpoint; the previous one is replaced only when the new file is complete."""
        tensors: dict[str, Tensor] = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": value for key, value in state.items()}
        tensors["generator"] = self.generator.get_state()
        metadata = {"step": self.step, "best": self.best, "spec": self.model.spec.model_dump()}
        write_tensors(folder / FILE, tensors, metadata)

    def load(self, folder: Path) -> None:
        """Continue from the checkpoint in ``folder``.

        Raises:
            PatchMorphError: no checkpoint, or one of another model.
        """
        path = folder / FILE
        if not path.is_file():
            raise PatchMorphError(f"--resume needs a checkpoint, got none in {folder}")
        tensors, metadata = read_tensors(path)
        if not _same_spec(metadata.get("spec"), self.model.spec):
            raise PatchMorphError(f"checkpoint must be of the configured model, got another in {path}")
        self.model.load_state_dict(_below(tensors, "model/"))
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        restored = self.optimizer.state_dict() | {"state": {}}
        for name, tensor in _below(tensors, "optimizer/").items():
            index, key = name.split("/")
            parameter = parameters[int(index)]
            if tensor.shape == parameter.shape:  # in the parameter's strides, as fused AdamW requires
                tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
            restored["state"].setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(restored)
        self.generator.set_state(tensors["generator"])
        self.step = metadata["step"]
        self.best = metadata.get("best")


def _same_spec(stored: object, spec: ModelSpec) -> bool:
    """Whether a stored specification equals ``spec``; older names of its keys are accepted."""
    try:
        return ModelSpec.model_validate(stored) == spec
    except ValidationError:
        return False


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
