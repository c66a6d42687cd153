"""Networks of other packages by import path: any module from two input to three output channels."""

from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.networks.blocks import Block
from patchmorph.networks.contract import VELOCITY_STRIDE

INITIAL_GAIN = 0.05
"""Initial factor on the output of a foreign network, so that training starts near zero velocity."""


def find_class(path: str) -> type[nn.Module]:
    """The class at ``module:Class``, which must be a subclass of ``torch.nn.Module``.

    Raises:
        PatchMorphError: the class does not exist, or is no ``torch.nn.Module``.
    """
    module, _, name = path.partition(":")
    try:
        found = getattr(import_module(module), name)
    except Exception as error:  # a module that is imported may raise anything
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise PatchMorphError(f"network must be importable as module:Class, got {path}: {reason}") from None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise PatchMorphError(f"network must be a torch.nn.Module, got {path}, a {type(found).__name__}")
    return found


class Foreign(nn.Module):
    """Dense network (see `contract`) around a module whose output has full or half the patch resolution.

    Args:
        path: ``module:Class`` of a network from ``[B, 2, N, N, N]`` to ``[B, 3, N, N, N]`` or
            ``[B, 3, N/2, N/2, N/2]``.
        options: keyword arguments of the network.
    """

    def __init__(self, path: str, options: dict[str, Any]):
        super().__init__()
        self.path = path
        self.network = Block(find_class(path)(**options))
        self.gain = nn.Parameter(torch.tensor(INITIAL_GAIN))

    def forward(self, pair: Float[Tensor, "b 2 n n n"]) -> Float[Tensor, "b 3 m m m"]:
        """Velocity in patch voxels at half the patch resolution."""
        output = self.network(pair)
        if not isinstance(output, Tensor):
            raise PatchMorphError(f"network {self.path} must return a tensor, got {type(output).__name__}")
        if output.shape[2:] == pair.shape[2:]:
            output = functional.avg_pool3d(output, VELOCITY_STRIDE)
        wanted = (len(pair), 3, *(n // VELOCITY_STRIDE for n in pair.shape[2:]))
        if output.shape != wanted:
            raise PatchMorphError(
                f"network {self.path} must answer three channels at full or half resolution, "
                f"got shape {tuple(output.shape)} for patches {tuple(pair.shape)}"
            )
        return output * self.gain
