"""The pieces that the networks here are made of."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from patchmorph.errors import PatchMorphError

UNSTEADY = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)


class Block(nn.Sequential):
    """Layers in a row, whose activations can be computed again instead of kept.

    With ``recompute`` set, only the input stays in memory, and the backward pass runs the layers once more
    (activation checkpointing; Chen et al., *Training deep nets with sublinear memory cost*, 2016). Every
    network here is made of blocks, so `set_recompute` serves them all.
    """

    recompute = False

    def forward(self, input: Tensor) -> Tensor:
        """The layers, one after the other."""
        if self.recompute and torch.is_grad_enabled():
            # No layer here draws random numbers (see `set_recompute`), so there is no state to bring back.
            return checkpoint(super().forward, input, use_reentrant=False, preserve_rng_state=False)
        return super().forward(input)


def set_recompute(network: nn.Module, recompute: bool) -> None:
    """Choose for a whole network whether its blocks keep their activations.

    Raises:
        PatchMorphError: it has layers that a second run would change (dropout, batch normalisation).
    """
    for module in network.modules():
        if recompute and isinstance(module, UNSTEADY) and getattr(module, "p", 1) > 0:
            raise PatchMorphError(
                f"network to recompute must do the same twice, got a layer {type(module).__name__}"
            )
        if isinstance(module, Block):
            module.recompute = recompute


def conv_block(inputs: int, outputs: int, stride: int = 1) -> Block:
    """3×3×3 convolution, group normalisation, leaky ReLU."""
    groups = next(groups for groups in (8, 4, 2, 1) if outputs % groups == 0)
    return Block(
        nn.Conv3d(inputs, outputs, 3, stride, padding=1),
        nn.GroupNorm(groups, outputs),
        nn.LeakyReLU(0.2, inplace=True),
    )


def init_near_zero(layer: nn.Conv3d | nn.Linear, std: float) -> None:
    """Start an output layer so that the network answers "nothing moves"."""
    nn.init.normal_(layer.weight, std=std)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
