"""How alike two patches look: one value a patch, lower is better."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from patchmorph.spatial.compilation import compilable

NOISE = 3e-4
"""Local variance (intensities 0 to 1) of noise: two images count as alike where they vary by less."""

STRUCTURE = 3e-3
"""Local variance of the fixed image that a voxel needs to count half."""


@compilable
def mse(
    fixed: Float[Tensor, "b 1 x y z"],
    moving: Float[Tensor, "b 1 x y z"],
    mask: Float[Tensor, "b 1 x y z"] | None = None,
) -> Float[Tensor, " b"]:
    """Mean squared difference, over ``mask`` if one is given."""
    difference = (fixed - moving).square()
    if mask is None:
        return difference.mean((1, 2, 3, 4))
    return (difference * mask).sum((1, 2, 3, 4)) / mask.sum((1, 2, 3, 4)).clamp(min=1)


@compilable
def lncc(
    fixed: Float[Tensor, "b 1 x y z"],
    moving: Float[Tensor, "b 1 x y z"],
    mask: Float[Tensor, "b 1 x y z"] | None = None,
    radius: int = 3,
) -> Float[Tensor, " b"]:
    """One minus the mean of `correlation_map`, over ``mask`` if one is given."""
    squared, weight = correlation_map(fixed, moving, radius)
    if mask is not None:
        weight = weight * mask
    total = weight.sum((1, 2, 3, 4)).clamp(min=1)
    return 1 - (squared * weight).sum((1, 2, 3, 4)) / total


BINS = 16
"""Of the fixed intensities."""


def correlation_ratio(
    fixed: Float[Tensor, "1 n"], moving: Float[Tensor, "k n"], weight: Float[Tensor, "#k n"] | None = None
) -> Float[Tensor, " k"]:
    """Share of the variance of ``moving`` that is explained by ``fixed``, whatever the relation: 0 to 1.

    Intensities from 0 to 1 share two of `BINS` bins linearly (Roche et al., MICCAI 1998). Points count by
    ``weight``, if one is given.
    """
    steps = torch.arange(BINS, device=fixed.device) / (BINS - 1)
    shares = (1 - (fixed[0, :, None] - steps).abs() * (BINS - 1)).clamp(min=0)
    weight = torch.ones_like(fixed) if weight is None else weight
    sizes = (weight @ shares).clamp(min=1e-3)
    means = (weight * moving) @ shares / sizes
    mean = (weight * moving).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1e-3)
    variance = (weight * (moving - mean).square()).sum(1)
    return (sizes * (means - mean).square()).sum(1) / variance.clamp(min=1e-6)


def correlation_map(
    fixed: Float[Tensor, "b 1 x y z"], moving: Float[Tensor, "b 1 x y z"], radius: int
) -> tuple[Float[Tensor, "b 1 x y z"], Float[Tensor, "b 1 x y z"]]:
    """Squared local normalised cross-correlation (Avants et al., Med Image Anal 2008), and voxels' weights.

    Means run over boxes of ``2 radius + 1`` voxels a side. Both images are taken to share a pattern of the
    variance ``NOISE``, so the correlation tends to one where they vary by less, and a voxel counts by how
    much the fixed image varies around it (v / (v + ``STRUCTURE``)): the inside of uniform tissue is left to
    the regulariser, and empty background counts nothing (docs/decisions/008). Computed in float32, since
    variances are small differences of large sums; a gradient flows to ``moving`` only.
    """
    fixed, moving = fixed.float().detach(), moving.float()
    fixed_mean, fixed_square = _BoxMean.apply(torch.cat([fixed, fixed * fixed], 1), radius).split(1, 1)
    moments = torch.cat([moving, moving * moving, fixed * moving], 1)
    moving_mean, moving_square, product = _BoxMean.apply(moments, radius).split(1, 1)
    fixed_variance = (fixed_square - fixed_mean * fixed_mean).clamp(min=0)
    moving_variance = (moving_square - moving_mean * moving_mean).clamp(min=0)
    covariance = product - fixed_mean * moving_mean + NOISE
    squared = covariance * covariance / ((fixed_variance + NOISE) * (moving_variance + NOISE))
    return squared, fixed_variance / (fixed_variance + STRUCTURE)


class _BoxMean(torch.autograd.Function):
    """Mean over a box around each voxel, over what lies inside the array: three passes of one axis each.

    Its adjoint is the same box sum again, so the backward pass is as cheap as the forward pass; that of
    ``avg_pool3d`` scatters with atomic adds.
    """

    @staticmethod
    def forward(ctx, values: Tensor, radius: int) -> Tensor:
        ctx.radius = radius
        return _box_sum(values, radius) * _inverse_counts(values, radius)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _box_sum(gradient * _inverse_counts(gradient, ctx.radius), ctx.radius), None


def _box_sum(values: Tensor, radius: int) -> Tensor:
    for axis in (2, 3, 4):
        padding = [0, 0] * (4 - axis) + [radius, radius]
        values = functional.pad(values, padding).unfold(axis, 2 * radius + 1, 1).sum(-1)
    return values


def _inverse_counts(values: Tensor, radius: int) -> Tensor:
    """One over the number of voxels inside the array in each box."""
    result = torch.ones((), device=values.device)
    for axis, size in enumerate(values.shape[2:]):
        index = torch.arange(size, device=values.device)
        inside = (index + radius).clamp(max=size - 1) - (index - radius).clamp(min=0) + 1
        result = result / inside.reshape([-1 if k == axis else 1 for k in range(3)])
    return result
