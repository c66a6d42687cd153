"""A network that matches features of both patches, from coarse to fine."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from patchmorph.errors import PatchMorphError
from patchmorph.networks.blocks import Block, blocks_as_channels, conv_block, init_near_zero
from patchmorph.networks.contract import VELOCITY_STRIDE
from patchmorph.networks.matching import local_correlation, warp_features

AXES = 3


class Pyramid(nn.Module):
    """Dense network (see `contract`): feature pyramids, matched locally at every level.

    One encoder is applied to both patches. Each level, from the coarsest on, warps the moving features by the
    velocity so far, correlates every fixed feature with the moving features around the same place, and a
    small decoder predicts a residual velocity from the correlations. The residual of a level is at most a
    voxel or two of that level. The idea is that of PWC-Net (Sun et al., CVPR 2018) in 3D, as in dual-stream
    pyramids for registration (Kang et al., Med Image Anal 2022) and VFA (Liu et al., Med Image Anal 2024).

    Args:
        channels: features at 1/2, 1/4, … of the patch resolution.
        hidden: channels of the decoder at these levels.
        radius: of the neighbourhood that is compared, in voxels of the level.
    """

    is_static = any_shape = True

    def __init__(
        self,
        channels: Sequence[int] = (24, 32, 48, 64),
        hidden: Sequence[int] = (32, 32, 40, 32),
        radius: int = 1,
    ):
        super().__init__()
        if len(channels) != len(hidden) or min(*channels, *hidden) < 1 or radius < 1:
            raise PatchMorphError(
                "channels and hidden must be as many positive numbers and radius at least 1, "
                f"got {list(channels)}, {list(hidden)} and {radius}"
            )
        self.encoder = Encoder(channels)
        coarser = (*hidden[1:], 0)
        self.decoders = nn.ModuleList(
            Decoder(*widths, radius, unit=0.5**level)
            for level, widths in enumerate(zip(channels, coarser, hidden, strict=True))
        )

    def forward(self, pair: Float[Tensor, "b 2 x y z"]) -> Float[Tensor, "b 3 u v w"]:
        """Velocity in patch voxels at half the patch resolution."""
        batch = len(pair)
        levels = self.encoder(torch.cat([pair[:, :1], pair[:, 1:]]))
        coarsest = levels[-1]
        velocity = torch.zeros(batch, AXES, *coarsest.shape[2:], device=pair.device)
        state = coarsest[:batch, :0]
        for features, decoder in zip(levels[::-1], list(self.decoders)[::-1], strict=True):
            if features is not coarsest:
                velocity = 2 * functional.interpolate(
                    velocity, scale_factor=2, mode="trilinear", align_corners=False
                )
                state = doubled(state)
            fixed, moving = features[:batch], features[batch:]
            residual, state = decoder(fixed, moving, velocity, state)
            velocity = velocity + residual
        return VELOCITY_STRIDE * velocity


class Encoder(nn.Module):
    """Features of one patch at every level, fine to coarse, each with the context of the coarser ones."""

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        pairs = list(pairwise(channels))
        self.stem = nn.Sequential(conv_block(8, channels[0]), conv_block(channels[0], channels[0]))
        self.down = nn.ModuleList(nn.Sequential(conv_block(a, b, 2), conv_block(b, b)) for a, b in pairs)
        self.context = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in pairs)
        self.merge = nn.ModuleList(conv_block(a, a) for a in channels[:-1])
        self.features = nn.ModuleList(nn.Conv3d(a, a, 1) for a in channels)

    def forward(self, patch: Float[Tensor, "b 1 x y z"]) -> list[Float[Tensor, "b _ _ _ _"]]:
        """Signed features: correlations compare the directions of feature vectors."""
        levels = [self.stem(blocks_as_channels(patch))]
        for block in self.down:
            levels.append(block(levels[-1]))
        for level in range(len(levels) - 2, -1, -1):
            context = doubled(self.context[level](levels[level + 1]))
            levels[level] = self.merge[level](levels[level] + context)
        return [project(level) for project, level in zip(self.features, levels, strict=True)]


class Decoder(nn.Module):
    """Decoder of one level: predicts the residual velocity.

    Args:
        features: channels of the level.
        coarser: channels of the coarser level's state.
        width: channels of its own state.
        radius: see `Pyramid`.
        unit: what an output of one means, in voxels of the level. It is as far at every level, so that all
            learn at a like pace.
    """

    def __init__(self, features: int, coarser: int, width: int, radius: int, unit: float):
        super().__init__()
        self.radius, self.unit = radius, unit
        evidence = (2 * radius + 1) ** 3 + 2 + AXES  # correlations, lengths of both features, velocity
        self.blocks = nn.Sequential(
            conv_block(evidence + 2 * features + coarser, width), conv_block(width, width)
        )
        self.residual = nn.Conv3d(width, AXES, 3, padding=1)
        init_near_zero(self.residual, std=1e-3)

    def forward(
        self,
        fixed: Float[Tensor, "b c x y z"],
        moving: Float[Tensor, "b c x y z"],
        velocity: Float[Tensor, "b 3 x y z"],
        state: Float[Tensor, "b h x y z"],
    ) -> tuple[Float[Tensor, "b 3 x y z"], Float[Tensor, "b w x y z"]]:
        """Residual velocity, float32, in voxels of the level, and the state for the next finer level."""
        first = self.blocks[0]
        assert isinstance(first, Block)
        if first.recompute and torch.is_grad_enabled():  # what is matched is large, too (see `Block`)
            matched = checkpoint(
                self._match, fixed, moving, velocity, use_reentrant=False, preserve_rng_state=False
            )
        else:
            matched = self._match(fixed, moving, velocity)
        assert isinstance(matched, tuple)
        state = self.blocks(joined([*matched, state.to(fixed.dtype)]))
        return self.unit * self.residual(state).float(), state

    def _match(
        self,
        fixed: Float[Tensor, "b c x y z"],
        moving: Float[Tensor, "b c x y z"],
        velocity: Float[Tensor, "b 3 x y z"],
    ) -> tuple[Float[Tensor, "b _ x y z"], ...]:
        """Inputs of the decoder: correlations, lengths, the velocity so far and both features."""
        moving = warp_features(moving, velocity)
        fixed_direction, fixed_length = directions(fixed)
        moving_direction, moving_length = directions(moving)
        correlation = local_correlation(fixed_direction, moving_direction, self.radius)
        return correlation, fixed_length, moving_length, velocity.to(fixed.dtype), fixed, moving


def directions(
    features: Float[Tensor, "b c x y z"],
) -> tuple[Float[Tensor, "b c x y z"], Float[Tensor, "b 1 x y z"]]:
    """Features of length one, and their root mean square: correlations are cosines, whatever the contrast."""
    wide = features.float() if features.dtype == torch.bfloat16 else features
    length = (wide.square().sum(1, keepdim=True) + 1e-6).sqrt()
    return (wide / length).to(features.dtype), (length / features.shape[1] ** 0.5).to(features.dtype)


def joined(parts: Sequence[Float[Tensor, "b _ x y z"]]) -> Float[Tensor, "b c x y z"]:
    """Channels of all parts, which stay last in memory (``cat`` along them does not see to that)."""
    return torch.cat([part.movedim(1, -1) for part in parts], dim=-1).movedim(-1, 1)


def doubled(features: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c u v w"]:
    """Every voxel as 2³; channels stay last in memory (``interpolate`` on CUDA would copy there and back)."""
    last = features.movedim(1, -1)
    batch, x, y, z, channels = last.shape
    wide = last[:, :, None, :, None, :, None].expand(batch, x, 2, y, 2, z, 2, channels)
    return wide.reshape(batch, 2 * x, 2 * y, 2 * z, channels).movedim(-1, 1)
