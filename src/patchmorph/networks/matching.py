"""Local correlation and warping of feature maps, for networks that match features.

Both are plain PyTorch; with gradients on CUDA one Triton kernel each for the forward and the backward pass
(`kernels`), and without gradients on a CPU matrix products and weighted sums (`matching_cpu`).
Coordinates are voxels of the feature map.
"""

import itertools
from importlib.util import find_spec

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from patchmorph.networks.matching_cpu import block_correlation, row_warp

HAS_TRITON = find_spec("triton") is not None
"""It comes with PyTorch for CUDA only."""


def local_correlation(
    fixed: Float[Tensor, "b c x y z"], moving: Float[Tensor, "b c x y z"], radius: int
) -> Float[Tensor, "b k x y z"]:
    """Scalar products of each fixed feature with its moving neighbours.

    Channel ``k`` belongs to the offset ``k`` of ``itertools.product(range(-radius, radius + 1), repeat=3)``,
    so there are ``(2 radius + 1)³``. Beyond the map moving features are zero.
    """
    if _has_kernels(fixed):
        return torch.ops.patchmorph.correlate(_last(fixed), _last(moving), radius).movedim(-1, 1)
    if _is_plain_inference(fixed):
        return block_correlation(fixed, moving, radius)
    return plain_correlation(fixed, moving, radius)


def warp_features(
    features: Float[Tensor, "b c x y z"], displacement: Float[Tensor, "b 3 x y z"]
) -> Float[Tensor, "b c x y z"]:
    """Features at ``voxel + displacement(voxel)``, trilinear; beyond the map the nearest ones inside."""
    if _has_kernels(features):
        return torch.ops.patchmorph.warp(_last(features), _last(displacement.float())).movedim(-1, 1)
    if _is_plain_inference(features):
        return row_warp(features, displacement)
    return plain_warp(features, displacement)


def _has_kernels(features: Tensor) -> bool:
    """Whether Triton computes: a registration is over before it is loaded (docs/decisions/016)."""
    return features.is_cuda and HAS_TRITON and torch.is_grad_enabled()


def _is_plain_inference(features: Tensor) -> bool:
    return features.device.type == "cpu" and not torch.is_grad_enabled()


def plain_correlation(
    fixed: Float[Tensor, "b c x y z"], moving: Float[Tensor, "b c x y z"], radius: int
) -> Float[Tensor, "b k x y z"]:
    """`local_correlation` without a kernel of its own."""
    x, y, z = fixed.shape[2:]
    rows, padded = (
        _last(fixed),
        _last(functional.pad(moving, (radius,) * 6)),
    )  # whatever they were: mixed is slow
    products = [
        (rows * padded[:, a : a + x, b : b + y, c : c + z]).sum(-1)
        for a, b, c in itertools.product(range(2 * radius + 1), repeat=3)
    ]
    return torch.stack(products, dim=1)


def plain_warp(
    features: Float[Tensor, "b c x y z"], displacement: Float[Tensor, "b 3 x y z"]
) -> Float[Tensor, "b c x y z"]:
    """`warp_features` without a kernel of its own.

    Calls ``grid_sample`` itself, since networks know nothing of `patchmorph.spatial`: the components are
    reversed and ``unit = (2 i + 1) / n − 1``, as in `patchmorph.spatial.sampling`.
    """
    wide = torch.promote_types(features.dtype, torch.float32)
    units = []
    for axis, count in enumerate(features.shape[2:]):
        column = [-1 if k == axis else 1 for k in range(3)]
        index = torch.arange(count, device=features.device, dtype=wide).reshape(column)
        units.append((2 * (index + displacement[:, axis].to(wide)) + 1) / count - 1)
    points = torch.stack(units[::-1], dim=-1)
    warped = functional.grid_sample(features.to(wide), points, padding_mode="border", align_corners=False)
    return warped.to(features.dtype)


def _last(features: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b x y z c"]:
    """Channels last; nothing is copied of what lies in memory that way."""
    return features.movedim(1, -1).contiguous()


# Operators, so that the compiler leaves the kernels alone and a CUDA graph records them. Their features are
# [B, X, Y, Z, C] and contiguous.


@torch.library.custom_op("patchmorph::correlate", mutates_args=(), device_types="cuda")
def _correlate(fixed: Tensor, moving: Tensor, radius: int) -> Tensor:
    from patchmorph.networks import kernels  # requires Triton

    return kernels.correlate(fixed.contiguous(), moving.contiguous(), radius)


@torch.library.custom_op("patchmorph::correlate_backward", mutates_args=(), device_types="cuda")
def _correlate_backward(gradient: Tensor, other: Tensor, radius: int, of_moving: bool) -> Tensor:
    from patchmorph.networks import kernels

    return kernels.correlate_backward(gradient.contiguous(), other.contiguous(), radius, of_moving)


@torch.library.custom_op("patchmorph::warp", mutates_args=(), device_types="cuda")
def _warp(features: Tensor, displacement: Tensor) -> Tensor:
    from patchmorph.networks import kernels

    return kernels.warp(features.contiguous(), displacement.contiguous())


@torch.library.custom_op("patchmorph::warp_backward", mutates_args=(), device_types="cuda")
def _warp_backward(gradient: Tensor, features: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
    from patchmorph.networks import kernels

    return kernels.warp_backward(gradient.contiguous(), features.contiguous(), displacement.contiguous())


@_correlate.register_fake
def _(fixed: Tensor, moving: Tensor, radius: int) -> Tensor:
    return fixed.new_empty(*fixed.shape[:-1], (2 * radius + 1) ** 3)


@_correlate_backward.register_fake
def _(gradient: Tensor, other: Tensor, radius: int, of_moving: bool) -> Tensor:
    return other.new_empty(other.shape)


@_warp.register_fake
def _(features: Tensor, displacement: Tensor) -> Tensor:
    return features.new_empty(features.shape)


@_warp_backward.register_fake
def _(gradient: Tensor, features: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
    return features.new_empty(features.shape), displacement.new_empty(displacement.shape)


def _save_correlate(ctx, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    fixed, moving, ctx.radius = inputs
    ctx.save_for_backward(fixed, moving)


def _differentiate_correlate(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    fixed, moving = ctx.saved_tensors
    ops = torch.ops.patchmorph
    return (
        ops.correlate_backward(gradient, moving, ctx.radius, False),
        ops.correlate_backward(gradient, fixed, ctx.radius, True),
        None,
    )


def _save_warp(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_warp(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.patchmorph.warp_backward(gradient, *ctx.saved_tensors)


_correlate.register_autograd(_differentiate_correlate, setup_context=_save_correlate)
_warp.register_autograd(_differentiate_warp, setup_context=_save_warp)
