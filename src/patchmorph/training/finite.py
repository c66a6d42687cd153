"""Checks that losses and gradients are finite, without stalling the GPU."""

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.training.augmentation.draw import Draw
from patchmorph.training.data.cohort import Cohort

LAG = 2
"""Steps between the copy of a value to the host and its check, so that the check does not wait for it."""


@dataclass(frozen=True)
class _StepValues:
    step: int
    pairs: tuple[tuple[str, str], ...]
    losses: Tensor
    norm: Tensor
    arrived: "torch.cuda.Event | None"


class FiniteWatch:
    """Raises an error that names the pair when a loss or gradient is NaN or infinite."""

    def __init__(self, cohort: Cohort):
        self.cohort = cohort
        self._pending: deque[_StepValues] = deque()

    def add(self, step: int, draw: Draw, losses: Tensor, norm: Tensor) -> None:
        """Queue a step: the loss of each chain of ``draw``, and the norm of the gradient over all GPUs."""
        slots = zip(draw.fixed_index.tolist(), draw.moving_index.tolist(), strict=True)
        pairs = tuple(
            (str(self.cohort.subject(fixed).image), str(self.cohort.subject(moving).image))
            for fixed, moving in slots
        )
        arrived = torch.cuda.Event() if losses.is_cuda else None
        self._pending.append(_StepValues(step, pairs, _to_host(losses), _to_host(norm), arrived))
        if arrived is not None:
            arrived.record()

    def check(self, all_of_them: bool = False) -> None:
        """Check the steps at least ``LAG`` steps old, or all of them; on the CPU always all.

        Raises:
            PatchMorphError: a loss or gradient is not finite.
        """
        waiting = LAG if self.cohort.device.type == "cuda" and not all_of_them else 0
        while len(self._pending) > waiting:
            values = self._pending.popleft()
            if values.arrived is not None:
                values.arrived.synchronize()
            for (fixed, moving), loss in zip(values.pairs, values.losses.tolist(), strict=True):
                if not math.isfinite(loss):
                    raise PatchMorphError(
                        f"loss must stay finite, got {loss} at step {values.step} "
                        f"for fixed {fixed} and moving {moving}"
                    )
            if not math.isfinite(values.norm.item()):
                names = ", ".join(f"{fixed} with {moving}" for fixed, moving in values.pairs)
                raise PatchMorphError(
                    f"gradient must stay finite, got {float(values.norm)} at step {values.step}, "
                    f"whose pairs are {names}"
                )


def _to_host(values: Tensor) -> Tensor:
    if not values.is_cuda:
        return values.clone()
    return torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
