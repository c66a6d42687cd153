"""A small U-Net whose decoder stops at half the patch resolution."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from patchmorph.errors import PatchMorphError
from patchmorph.networks.blocks import conv_block, init_near_zero


class UNet(nn.Module):
    """Dense network (see `contract`): encoder–decoder with skip connections.

    Args:
        encoder: channels at 1/2, 1/4, … of the patch resolution.
        decoder: channels of the blocks from the second-coarsest level up; the last entry is that of one more
            block at half resolution.
    """

    def __init__(
        self,
        encoder: Sequence[int] = (32, 48, 64, 80),
        decoder: Sequence[int] = (64, 48, 32, 24),
    ):
        super().__init__()
        if len(decoder) != len(encoder) or min(*encoder, *decoder) < 1:
            raise PatchMorphError(
                f"encoder and decoder must be as many positive numbers, got {encoder} and {decoder}"
            )
        inputs = (2, *encoder[:-1])
        self.down = nn.ModuleList(
            nn.Sequential(conv_block(before, after, stride=2), conv_block(after, after))
            for before, after in zip(inputs, encoder, strict=True)
        )
        below = (encoder[-1], *decoder[:-2])
        skips = encoder[-2::-1]
        self.up = nn.ModuleList(
            conv_block(lower + skip, after)
            for lower, skip, after in zip(below, skips, decoder[:-1], strict=True)
        )
        self.refine = conv_block(decoder[-2], decoder[-1])
        self.velocity = nn.Conv3d(decoder[-1], 3, 3, padding=1)
        init_near_zero(self.velocity, std=2e-3)

    def forward(self, pair: Float[Tensor, "b 2 n n n"]) -> Float[Tensor, "b 3 m m m"]:
        """Velocity in patch voxels at half the patch resolution."""
        features = pair
        skips = []
        for block in self.down:
            features = block(features)
            skips.append(features)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            features = functional.interpolate(features, scale_factor=2, mode="nearest")
            features = block(torch.cat([features, skip], dim=1))
        return self.velocity(self.refine(features))
