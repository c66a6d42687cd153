"""Loss and gradients of one step; on CUDA replayed as one captured graph.

A step launches thousands of small kernels, and launching them takes longer than running them. All random
numbers of a step are in its `Draw`, and no operation synchronizes with the GPU, so the step is captured once
and replayed.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchmorph.networks.model import PatchMorphModel
from patchmorph.training.augmentation.draw import Draw
from patchmorph.training.config import TrainingConfig
from patchmorph.training.data.cohort import Cohort
from patchmorph.training.step import Terms, chain_losses

WARMUP = 3
"""Eager steps before the capture: they select and compile kernels and fill the caches of constants."""


class Report(NamedTuple):
    """Losses and terms of one batch.

    Attributes:
        losses: one value per chain.
        names: of the terms.
        sums: sum of each term over the chains that have it, and the number of those chains.
    """

    losses: Float[Tensor, " b"]
    names: tuple[str, ...]
    sums: Float[Tensor, "2 k"]


class FlatGradients:
    """All gradients of a model in one buffer, so that one operation clears, averages or measures them.

    Frozen parameters have none.

    Attributes:
        buffer: every gradient, one after the other.
    """

    def __init__(self, model: nn.Module):
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.buffer = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
        first = 0
        for parameter in parameters:
            flat = self.buffer[first : first + parameter.numel()]
            parameter.grad = flat.as_strided(parameter.shape, parameter.stride())  # as fused AdamW requires
            first += parameter.numel()

    def finish(self, batches: int, processes: int, clip: float) -> Float[Tensor, ""]:
        """Average the sum over ``batches`` and processes, clip it, and return its norm before clipping."""
        if processes > 1:
            torch.distributed.all_reduce(self.buffer)
        self.buffer /= batches * processes
        norm = self.buffer.norm()
        self.buffer *= (clip / (norm + 1e-6)).clamp(max=1)
        return norm


def add_gradients(model: PatchMorphModel, cohort: Cohort, draw: Draw, config: TrainingConfig) -> Report:
    """Add the gradients of a batch's mean loss to the gradients of the parameters."""
    losses: list[Tensor] = []
    terms: Terms = {}
    for loss, more in chain_losses(model, cohort, draw, config):
        if not config.optimization.through_chain:
            loss.mean().backward()
        losses.append(loss if config.optimization.through_chain else loss.detach())
        terms |= more
    total = torch.stack(losses).sum(0)
    if config.optimization.through_chain:
        total.mean().backward()
    terms = {"loss": total.detach(), **terms}
    table = torch.stack(list(terms.values()))
    return Report(terms["loss"], tuple(terms), torch.stack([table.nansum(1), (~table.isnan()).sum(1)]))


class CapturedStep:
    """`add_gradients` as a CUDA graph, for a model with `FlatGradients`.

    Args:
        add: adds a draw's gradients; called ``WARMUP`` times, then captured.
        example: a draw with the sizes of all later ones, on the device.
    """

    def __init__(self, add: Callable[[Draw], Report], example: Draw):
        self.draw = example
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP):
                add(self.draw)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.empty_cache()  # frees the warm-up's memory; the graph has its own pool
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=stream):  # library workspaces are per stream
            self.report = add(self.draw)

    def __call__(self, draw: Draw) -> Report:
        """Add the gradients for ``draw``; the report is overwritten by the next call."""
        self.draw.copy_(draw)
        self.graph.replay()
        return self.report
