"""A small U-Net that segments the brain in a patch that covers the whole content of an image."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from patchmorph.networks.blocks import blocks_as_channels, conv_block, init_near_zero

PATCH_SIZE = 96
"""Voxels along each side of the patches on which the packaged weights were trained."""

WIDTHS = (32, 64, 96, 128)
"""Channels at 1/2, 1/4, 1/8 and 1/16 of the patch resolution."""


class BrainMask(nn.Module):
    """Encoder–decoder with skip connections, for heads and skull-stripped brains of any contrast and pose.

    It works at half the resolution: blocks of 2³ voxels of the patch are its eight input channels, and its
    eight output channels are blocks of 2³ logits. ``recipes/brain_mask.py`` trains it (after SynthStrip;
    Hoopes et al., NeuroImage 2022).
    """

    is_static = True

    def __init__(self) -> None:
        super().__init__()
        pairs = list(pairwise(WIDTHS))
        self.stem = nn.Sequential(conv_block(8, WIDTHS[0]), conv_block(WIDTHS[0], WIDTHS[0]))
        self.down = nn.ModuleList(nn.Sequential(conv_block(a, b, 2), conv_block(b, b)) for a, b in pairs)
        self.up = nn.ModuleList(conv_block(a + b, a) for a, b in pairs[::-1])
        self.answer = nn.Conv3d(WIDTHS[0], 8, 3, padding=1)
        init_near_zero(self.answer, std=1e-2)

    def forward(self, patch: Float[Tensor, "b 1 x y z"]) -> Float[Tensor, "b 1 x y z"]:
        """Logits of brain for intensities from 0 to 1; each side must be divisible by 16."""
        sides = tuple(patch.shape[2:])
        assert all(n % 16 == 0 for n in sides), f"sides must be divisible by 16, got {sides}"
        features = self.stem(blocks_as_channels(patch))
        skips = [features]
        for layers in self.down:
            features = layers(features)
            skips.append(features)
        for block, skip in zip(self.up, skips[-2::-1], strict=True):
            features = functional.interpolate(features, scale_factor=2, mode="nearest")
            features = block(torch.cat([features, skip], dim=1))
        return _unfold(self.answer(features))


def _unfold(features: Float[Tensor, "b 8 u v w"]) -> Float[Tensor, "b 1 x y z"]:
    """Channels as blocks of 2³ voxels."""
    blocks = features.unflatten(1, (2, 2, 2)).permute(0, 4, 1, 5, 2, 6, 3)
    return blocks.flatten(5, 6).flatten(3, 4).flatten(1, 2)[:, None]
