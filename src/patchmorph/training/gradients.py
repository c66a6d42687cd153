"""Loss and gradients of one step; on CUDA replayed as one captured graph.

A step launches thousands of small kernels, and launching them takes longer than running them. Since a step is
a function of its `Draw` alone and never waits for the GPU, it is recorded once and replayed.
"""

from collections.abc import Callable

import torch

from patchmorph.training.augmentation import Draw
from patchmorph.training.step import Terms

WARMUP = 3
"""Eager steps before the recording: they choose kernels and fill the caches of constants."""


class CapturedStep:
    """Computes gradients of all parameters from a draw, by replaying a CUDA graph.

    Args:
        eager: computes loss and gradients for a draw; called ``WARMUP`` times and then recorded.
        clear: drops all gradients, so that the recorded step makes its own.
        example: a draw of the sizes that will come.
    """

    def __init__(self, eager: Callable[[Draw], Terms], clear: Callable[[], None], example: Draw):
        self.draw = example
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP):
                clear()
                eager(self.draw)
        torch.cuda.current_stream().wait_stream(stream)
        clear()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.terms = eager(self.draw)

    def __call__(self, draw: Draw) -> Terms:
        """Gradients for ``draw``; the terms are overwritten by the next call."""
        self.draw.copy_(draw)
        self.graph.replay()
        return self.terms
