"""Watches over losses and gradients without making the GPU wait."""

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.training.augmentation.pair import Draw
from patchmorph.training.data.cohort import Cohort

LAG = 2
"""Steps that a value may stay on its way to the host: by then it has arrived, and nothing waits for it."""


@dataclass(frozen=True)
class _Seen:
    step: int
    pairs: tuple[tuple[str, str], ...]
    losses: Tensor
    norm: Tensor
    arrived: "torch.cuda.Event | None"


class FiniteWatch:
    """Stops a training whose loss or gradient is NaN or infinite, and says on which pair."""

    def __init__(self, cohort: Cohort):
        self.cohort = cohort
        self._seen: deque[_Seen] = deque()

    def add(self, step: int, draw: Draw, losses: Tensor, norm: Tensor) -> None:
        """Remember a step: the loss of each chain of ``draw``, and the norm of the gradient over all GPUs."""
        slots = zip(draw.fixed_index.tolist(), draw.moving_index.tolist(), strict=True)
        pairs = tuple(
            (str(self.cohort.subject(fixed).image), str(self.cohort.subject(moving).image))
            for fixed, moving in slots
        )
        arrived = torch.cuda.Event() if losses.is_cuda else None
        self._seen.append(_Seen(step, pairs, _to_host(losses), _to_host(norm), arrived))
        if arrived is not None:
            arrived.record()

    def check(self, all_of_them: bool = False) -> None:
        """Look at the steps that are ``LAG`` old, or at all; on the CPU nothing is on its way.

        Raises:
            PatchMorphError: a loss or gradient is not finite.
        """
        waiting = LAG if self.cohort.device.type == "cuda" and not all_of_them else 0
        while len(self._seen) > waiting:
            seen = self._seen.popleft()
            if seen.arrived is not None:
                seen.arrived.synchronize()
            for (fixed, moving), loss in zip(seen.pairs, seen.losses.tolist(), strict=True):
                if not math.isfinite(loss):
                    raise PatchMorphError(
                        f"loss must stay finite, got {loss} at step {seen.step} "
                        f"for fixed {fixed} and moving {moving}"
                    )
            if not math.isfinite(seen.norm.item()):
                names = ", ".join(f"{fixed} with {moving}" for fixed, moving in seen.pairs)
                raise PatchMorphError(
                    f"gradient must stay finite, got {float(seen.norm)} at step {seen.step}, "
                    f"whose pairs are {names}"
                )


def _to_host(values: Tensor) -> Tensor:
    if not values.is_cuda:
        return values.clone()
    return torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)
