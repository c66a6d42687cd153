"""An encoder that answers with one affine map."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchmorph.networks.blocks import conv_block, init_near_zero

LINEAR_SCALE = 0.2
SHIFT_SCALE = 5.0  # patch voxels
"""What an output of one means: both sides of the head then learn at a like pace."""


class AffineEncoder(nn.Module):
    """Affine network (see `contract`): the generator of the map, for the matrix exponential.

    Keeps positions: the last features are flattened, not averaged, because where a structure lies is the
    question.

    Args:
        patch_size: voxels along each side, a multiple of 16.
        channels: of the blocks; every other one, from the first, halves the resolution.
        hidden: width of the layer between the features and the twelve numbers.
    """

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
        """Generator ``[B, 4, 4]`` (last row zero) of the affine map, in patch voxels about the middle."""
        numbers = self.generator(self.hidden(self.encoder(pair))).float()
        linear = numbers[:, :9].reshape(-1, 3, 3) * LINEAR_SCALE
        shift = numbers[:, 9:, None] * SHIFT_SCALE
        top = torch.cat([linear, shift], dim=-1)
        return torch.cat([top, torch.zeros_like(top[:, :1])], dim=1)
