"""Building blocks of the networks."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from patchmorph.errors import PatchMorphError

NOT_REPEATABLE = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
"""Layers whose second forward pass on the same input may differ, or changes their state."""


class Block(nn.Sequential):
    """A sequence of layers whose activations can be recomputed instead of stored.

    With ``recompute`` set, only the input is stored, and the backward pass runs the layers once more
    (activation checkpointing; Chen et al., *Training deep nets with sublinear memory cost*, 2016). All
    networks in this package consist of blocks, so `set_recompute` applies to all of them.
    """

    recompute = False

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layers in order."""
        if self.recompute and torch.is_grad_enabled():
            # No layer draws random numbers (see `set_recompute`), so no generator state needs to be restored.
            return checkpoint(super().forward, input, use_reentrant=False, preserve_rng_state=False)
        return super().forward(input)


def set_recompute(network: nn.Module, recompute: bool) -> None:
    """Choose for a whole network whether its blocks recompute their activations.

    Raises:
        PatchMorphError: the network has layers that are not repeatable (dropout, batch normalisation).
    """
    for module in network.modules():
        if recompute and isinstance(module, NOT_REPEATABLE) and getattr(module, "p", 1) > 0:
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
    """Initialise an output layer so that the outputs of the network are near zero."""
    nn.init.normal_(layer.weight, std=std)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def blocks_as_channels(patch: Float[Tensor, "b 1 x y z"]) -> Float[Tensor, "b 8 u v w"]:
    """Blocks of 2³ voxels as channels: half the resolution without loss."""
    blocks = patch[:, 0].unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
    return blocks.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).movedim(-1, 1)
