"""An encoder that predicts one affine map."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchmorph.networks.blocks import conv_block, init_near_zero

LINEAR_SCALE = 0.2
SHIFT_SCALE = 5.0  # patch voxels
"""Scales of the outputs, chosen so that the linear part and the translation learn at similar rates."""


class AffineEncoder(nn.Module):
    """Affine network (see `contract`): predicts the generator of the map, for the matrix exponential.

    The last features are flattened, not averaged, since the map depends on the positions of structures.

    Args:
        patch_size: voxels along each side, a multiple of 16.
        channels: channels of the blocks; every second block, from the first, halves the resolution.
        hidden: width of the layer between the features and the twelve outputs.
    """

    is_static = True

    def __init__(
        self,
        patch_size: int = 64,
        channels: Sequence[int] = (16, 32, 48, 64, 96, 96, 96),
        hidden: int = 96,
    ):
        super().__init__()
        strides = [2 if k % 2 == 0 else 1 for k in range(len(channels))]
        self.encoder = nn.Sequential(
            *(
                conv_block(before, after, stride)
                for (before, after), stride in zip(pairwise((2, *channels)), strides, strict=True)
            )
        )
        side = patch_size // 2 ** strides.count(2)
        self.hidden = nn.Sequential(
            nn.Flatten(), nn.Linear(channels[-1] * side**3, hidden), nn.LeakyReLU(0.2)
        )
        self.generator = nn.Linear(hidden, 12)
        init_near_zero(self.generator, std=1e-3)

    def forward(self, pair: Float[Tensor, "b 2 n n n"]) -> Float[Tensor, "b 4 4"]:
        """Generator ``[B, 4, 4]`` (last row zero) of the map, in patch voxels about the patch centre."""
        outputs = self.generator(self.hidden(self.encoder(pair))).float()
        linear = outputs[:, :9].reshape(-1, 3, 3) * LINEAR_SCALE
        shift = outputs[:, 9:, None] * SHIFT_SCALE
        top = torch.cat([linear, shift], dim=-1)
        return torch.cat([top, torch.zeros_like(top[:, :1])], dim=1)
