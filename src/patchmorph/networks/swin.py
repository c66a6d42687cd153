"""A 3D Swin transformer with a convolutional decoder."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from patchmorph.errors import PatchMorphError
from patchmorph.networks.blocks import Block, conv_block, init_near_zero

EMBEDDING_STRIDE = 4
"""Patch voxels per token along each axis."""
HEAD_WIDTH = 32
"""Channels of one attention head."""

Sides = tuple[int, int, int]


class Swin(nn.Module):
    """Dense network (see `contract`): shifted-window attention on tokens of 4³ voxels, convolutional decoder.

    The encoder is that of Liu et al. (*Swin Transformer*, ICCV 2021) in 3D, combined with a convolutional
    decoder as in TransMorph (Chen et al., Med Image Anal 2022). The decoder stops at half the patch
    resolution, that of the velocity in the contract. The patch size must be divisible by 4: windows that
    extend beyond the tokens are padded and masked.

    Args:
        embedding: channels of the first level, a multiple of 32; each further level has twice as many.
        depths: transformer layers of each level; the resolution halves between levels.
        window: tokens along each side of an attention window.
        decoder: channels at half the patch resolution.
    """

    def __init__(
        self, embedding: int = 96, depths: Sequence[int] = (2, 2, 4), window: int = 4, decoder: int = 32
    ):
        super().__init__()
        if embedding % HEAD_WIDTH or embedding < 1 or min(depths, default=0) < 1 or window < 2:
            raise PatchMorphError(
                f"embedding must be a multiple of {HEAD_WIDTH}, depths positive and window at least 2, "
                f"got {embedding}, {list(depths)} and {window}"
            )
        widths = [embedding * 2**level for level in range(len(depths))]
        self.embed = nn.Conv3d(2, embedding, EMBEDDING_STRIDE, EMBEDDING_STRIDE)
        self.levels = nn.ModuleList(
            nn.Sequential(*(Block(SwinLayer(width, window, shifted=k % 2 == 1)) for k in range(depth)))
            for width, depth in zip(widths, depths, strict=True)
        )
        self.merge = nn.ModuleList(PatchMerging(width) for width in widths[:-1])
        self.up = nn.ModuleList(conv_block(fine + coarse, fine) for fine, coarse in pairwise(widths))
        self.detail = conv_block(2, decoder, stride=2)
        self.join = conv_block(embedding + decoder, decoder)
        self.velocity = nn.Conv3d(decoder, 3, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
        init_near_zero(self.velocity, std=2e-3)

    def forward(self, pair: Float[Tensor, "b 2 n n n"]) -> Float[Tensor, "b 3 m m m"]:
        """Velocity in patch voxels at half the patch resolution."""
        tokens = self.embed(pair).movedim(1, -1)
        skips = []
        for level, layers in enumerate(self.levels):
            if level > 0:
                tokens = self.merge[level - 1](tokens)
            tokens = layers(tokens)
            skips.append(tokens.movedim(-1, 1))
        features = skips.pop()
        for block, skip in zip(list(self.up)[::-1], skips[::-1], strict=True):
            # Levels with an odd number of tokens were padded before merging.
            x, y, z = skip.shape[2:]
            features = functional.interpolate(features, scale_factor=2)[..., :x, :y, :z]
            features = block(torch.cat([features, skip], dim=1))
        features = functional.interpolate(features, scale_factor=2)
        return self.velocity(self.join(torch.cat([features, self.detail(pair)], dim=1)))


class SwinLayer(nn.Module):
    """Attention within windows, then a two-layer perceptron, each pre-normalised and with a residual sum."""

    offsets: Tensor

    def __init__(self, width: int, window: int, shifted: bool):
        super().__init__()
        self.window = window
        self.shift = window // 2 if shifted else 0
        self.heads = width // HEAD_WIDTH
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.bias = nn.Parameter(0.02 * torch.randn(self.heads, (2 * window - 1) ** 3))
        self.project = nn.Linear(width, width)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.register_buffer("offsets", _offsets(window), persistent=False)

    def forward(self, tokens: Float[Tensor, "b x y z c"]) -> Float[Tensor, "b x y z c"]:
        """Tokens of the same shape."""
        tokens = tokens + self._attend(self.norm_attention(tokens))
        return tokens + self.perceptron(tokens)

    def _attend(self, tokens: Float[Tensor, "b x y z c"]) -> Float[Tensor, "b x y z c"]:
        batch, *sides, _ = tokens.shape
        x, y, z = sides
        padded = (_round_up(x, self.window), _round_up(y, self.window), _round_up(z, self.window))
        # Along an axis that one window covers, a shift would only split the window.
        shift = [self.shift if n > self.window else 0 for n in padded]
        cells = functional.pad(tokens, (0, 0, 0, padded[2] - z, 0, padded[1] - y, 0, padded[0] - x))
        cells = _to_windows(cells.roll([-s for s in shift], (1, 2, 3)), self.window)
        query, key, value = self.query_key_value(cells).unflatten(-1, (3, self.heads, HEAD_WIDTH)).unbind(-3)
        bias = self.bias[:, self.offsets]
        if any(shift) or padded != (x, y, z):
            allowed = _same_region((x, y, z), padded, shift, self.window, tokens.device)
            bias = torch.where(allowed[:, None], bias, -torch.inf).repeat(batch, 1, 1, 1)
        attended = functional.scaled_dot_product_attention(
            *(part.transpose(1, 2) for part in (query, key, value)), attn_mask=bias.to(query.dtype)
        )
        cells = self.project(attended.transpose(1, 2).flatten(2))
        return _from_windows(cells, batch, padded, self.window).roll(shift, (1, 2, 3))[:, :x, :y, :z]


class PatchMerging(nn.Module):
    """Merge blocks of 2³ tokens into one token of twice the width."""

    def __init__(self, width: int):
        super().__init__()
        self.reduce = nn.Sequential(nn.LayerNorm(8 * width), nn.Linear(8 * width, 2 * width, bias=False))

    def forward(self, tokens: Float[Tensor, "b x y z c"]) -> Float[Tensor, "b u v w d"]:
        """Half as many tokens along each axis, rounded up."""
        x, y, z = tokens.shape[1:4]
        tokens = functional.pad(tokens, (0, 0, 0, z % 2, 0, y % 2, 0, x % 2))
        blocks = tokens.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        return self.reduce(blocks.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4))


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _offsets(window: int) -> Int[Tensor, "t t"]:
    """Index of the relative-position bias of each pair of tokens of a window."""
    position = torch.cartesian_prod(*[torch.arange(window)] * 3)
    x, y, z = (position[:, None] - position[None] + window - 1).unbind(-1)
    return (x * (2 * window - 1) + y) * (2 * window - 1) + z


def _to_windows(tokens: Float[Tensor, "b x y z c"], window: int) -> Float[Tensor, "n t c"]:
    blocks = tokens.unflatten(3, (-1, window)).unflatten(2, (-1, window)).unflatten(1, (-1, window))
    return blocks.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(0, 3)


def _from_windows(
    cells: Float[Tensor, "n t c"], batch: int, sides: Sides, window: int
) -> Float[Tensor, "b x y z c"]:
    counts = [n // window for n in sides]
    blocks = cells.reshape(batch, *counts, window, window, window, -1)
    return blocks.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(batch, *sides, -1)


def _same_region(
    sides: Sides, padded: Sides, shift: Sequence[int], window: int, device: torch.device
) -> Bool[Tensor, "n t t"]:
    """Which pairs of tokens of each window attend: both from the same side of the roll, or both padding."""
    region = torch.zeros(1, 1, 1, 1, 1, device=device)
    padding = torch.zeros(1, 1, 1, 1, 1, dtype=torch.bool, device=device)
    for axis, (count, full, offset) in enumerate(zip(sides, padded, shift, strict=True)):
        index = torch.arange(full, device=device)
        # After the roll, the last window contains both ends of the axis.
        wrapped = (index >= full - offset).float()
        outside = (index + offset) % full >= count
        column = [-1 if k == axis + 1 else 1 for k in range(5)]
        region = region + wrapped.reshape(column) * 2**axis
        padding = padding | outside.reshape(column)
    region = torch.where(padding, -1.0, region).expand(1, *padded, 1)
    cells = _to_windows(region, window)[..., 0]
    return cells[:, :, None] == cells[:, None, :]
