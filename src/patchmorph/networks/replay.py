"""CUDA graphs of networks: a recorded pass is replayed at once instead of launching its kernels one by one.

A pass of a network on a few patches has hundreds of small kernels, so that a GPU waits for their launches.
"""

import functools
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

FIRST_PASSES = 4
"""Passes on patches of one shape before one is recorded, which takes longer than a single registration would
save."""

MAX_RECORDINGS = 4
"""Shapes of a network whose passes are kept: each holds the memory of all its activations."""

Key = tuple[object, ...]


@dataclass
class Recording:
    """A recorded pass with the memory that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    patches: Tensor
    output: Tensor

    @classmethod
    def of(cls, network: nn.Module, patches: Tensor) -> "Recording":
        """Record a pass of ``network`` on patches of this shape, in the autocast mode of the caller.

        On a stream of the GPU of the patches: kernels on another GPU than the current one are not recorded.
        """
        with torch.cuda.device(patches.device):
            graph, patches = torch.cuda.CUDAGraph(), patches.clone()
            stream = _stream(patches.device)
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                output = network(patches)
        return cls(graph, patches, output)

    def replay(self, patches: Tensor) -> Tensor:
        """The output of the network for ``patches``."""
        self.patches.copy_(patches)
        self.graph.replay()
        return self.output.clone()


@functools.cache  # workspaces of libraries are per stream
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


_passes: "WeakKeyDictionary[nn.Module, dict[Key, int | Recording]]" = WeakKeyDictionary()


def replayed(network: nn.Module, patches: Tensor) -> Tensor:
    """``network(patches)``, by a recording where one pays.

    Args:
        network: one that says that it ``is_static``: it launches the same kernels whatever the values.
        patches: on any device; recordings are of CUDA and without gradients.
    """
    is_static = getattr(network, "is_static", False) and not network.training
    if not (patches.is_cuda and is_static) or torch.is_grad_enabled():
        return network(patches)
    passes = _passes.setdefault(network, {})
    key = (patches.shape, patches.device, torch.is_autocast_enabled("cuda"), _address(network))
    known = passes.get(key, 0)
    if isinstance(known, int):
        recorded = sum(isinstance(entry, Recording) for entry in passes.values())
        if known < FIRST_PASSES or recorded >= MAX_RECORDINGS:
            passes[key] = known + 1
            return network(patches)
        known = passes[key] = Recording.of(network, patches)
    return known.replay(patches)


def _address(network: nn.Module) -> int:
    """Of the weights: a recording reads them where they lay, so those that were moved need another."""
    return next((weights.data_ptr() for weights in network.parameters()), 0)
