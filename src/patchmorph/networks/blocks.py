"""The layer that every convolutional network here is made of."""

from torch import nn


def conv_block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3×3×3 convolution, group normalisation, leaky ReLU."""
    groups = next(groups for groups in (8, 4, 2, 1) if outputs % groups == 0)
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, stride, padding=1),
        nn.GroupNorm(groups, outputs),
        nn.LeakyReLU(0.2, inplace=True),
    )


def init_near_zero(layer: nn.Conv3d | nn.Linear, std: float) -> None:
    """Start an output layer so that the network answers "nothing moves"."""
    nn.init.normal_(layer.weight, std=std)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
