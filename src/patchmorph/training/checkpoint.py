"""Training checkpoints: the whole state of a training run as tensors and JSON, without pickle."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field, FiniteFloat, ValidationError
from torch import Tensor

from patchmorph.errors import PatchMorphError, one_line, problems
from patchmorph.io.tensors import (
    TensorInfo,
    check_finite,
    check_header,
    read_header,
    read_tensors,
    write_tensors,
)
from patchmorph.networks.model import ModelSpec, PatchMorphModel

FILE, WHAT = "checkpoint.safetensors", "checkpoint"


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
            PatchMorphError: no checkpoint, one of another model, or one that is not whole and finite.
        """
        path = folder / FILE
        if not path.is_file():
            raise PatchMorphError(f"--resume needs a checkpoint, got none in {folder}")
        header, metadata = read_header(path, WHAT)
        if not _same_spec(metadata.get("spec"), self.model.spec):
            raise PatchMorphError(f"checkpoint must be of the configured model, got another in {path}")
        progress = _progress(metadata, path)
        check_header(header, self._wanted(header), path, WHAT)
        tensors, _ = read_tensors(path, WHAT)
        check_finite(tensors, path, WHAT)
        try:
            self.generator.set_state(tensors["generator"])
        except RuntimeError as error:
            got = f"{one_line(error)} in {path}"
            raise PatchMorphError(f"checkpoint must hold a generator's state, got {got}") from None
        self.model.load_state_dict(_below(tensors, "model/"))
        self._load_optimizer(_below(tensors, "optimizer/"))
        self.step, self.best = progress.step, progress.best

    def _wanted(self, found: Mapping[str, TensorInfo]) -> dict[str, Tensor]:
        """Tensors that a checkpoint must hold; parameters that had no gradient have no state."""
        wanted = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        wanted["generator"] = self.generator.get_state()
        for index, parameter in enumerate(self._parameters):
            names = [f"optimizer/{index}/{key}" for key in ("step", "exp_avg", "exp_avg_sq")]
            if found.keys() & set(names):
                wanted |= dict(zip(names, (torch.zeros(()), parameter, parameter), strict=True))
        return wanted

    @property
    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _load_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        parameters, restored = self._parameters, self.optimizer.state_dict() | {"state": {}}
        for name, tensor in tensors.items():
            index, key = name.split("/")
            parameter = parameters[int(index)]
            if tensor.shape == parameter.shape:  # in the parameter's strides, as fused AdamW requires
                tensor = torch.empty_like(parameter, requires_grad=False).copy_(tensor)
            restored["state"].setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(restored)


class _Progress(BaseModel):
    step: Annotated[int, Field(ge=0, strict=True)]
    best: FiniteFloat | None = None


def _progress(metadata: dict[str, Any], path: Path) -> _Progress:
    try:
        return _Progress.model_validate(metadata)
    except ValidationError as error:
        raise PatchMorphError(f"checkpoint must state its step, got {problems(error)} in {path}") from None


def _same_spec(stored: object, spec: ModelSpec) -> bool:
    """Whether a stored specification equals ``spec``; older names of its keys are accepted."""
    try:
        return ModelSpec.model_validate(stored) == spec
    except ValidationError:
        return False


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
