"""Dissimilarities of two patches: one value per patch, lower is better."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from patchmorph.images.foreground import BACKGROUND
from patchmorph.spatial.compilation import compilable

NOISE = 3e-4
"""Local variance of noise (intensities 0 to 1): two images count as similar where they vary by less."""

BINS = 16
"""Bins of the fixed intensities in `correlation_ratio`."""

STRUCTURE = 3e-3
"""Local variance of the fixed image at which the weight of a voxel is one half."""


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


@compilable
def mind(
    fixed: Float[Tensor, "b 1 x y z"],
    moving: Float[Tensor, "b 1 x y z"],
    mask: Float[Tensor, "b 1 x y z"] | None = None,
    radius: int = 1,
) -> Float[Tensor, " b"]:
    """Mean absolute difference of `self_similarity`, for any two contrasts.

    Voxels are weighted by `structure`, and by ``mask`` if one is given. Only ``moving`` receives a gradient.
    """
    difference = (self_similarity(fixed.detach(), radius) - self_similarity(moving, radius)).abs()
    weight = structure(fixed)
    if mask is not None:
        weight = weight * mask
    total = weight.sum((1, 2, 3, 4)).clamp(min=1)
    return (difference.mean(1, keepdim=True) * weight).sum((1, 2, 3, 4)) / total


def mutual_information(
    fixed: Float[Tensor, "b 1 x y z"],
    moving: Float[Tensor, "b 1 x y z"],
    mask: Float[Tensor, "b 1 x y z"] | None = None,
    bins: int = 24,
) -> Float[Tensor, " b"]:
    """One minus the mutual information over the mean of both entropies: 0 to 1, for any two contrasts.

    Estimated with Parzen windows (cubic B-splines; Mattes et al., IEEE TMI 2003) for intensities from 0 to 1,
    over voxels where the fixed image exceeds `BACKGROUND`, weighted by ``mask`` if one is given. Only
    ``moving`` receives a gradient.
    """
    weight = (fixed.detach() > BACKGROUND).float()
    if mask is not None:
        weight = weight * mask
    memberships = [_parzen(image.float().flatten(1), bins) for image in (fixed.detach(), moving)]
    joint = torch.einsum("bn,bnf,bnm->bfm", weight.flatten(1), *memberships)
    joint = joint / joint.sum((1, 2), keepdim=True).clamp(min=1)
    entropies = _entropy(joint.sum(2)) + _entropy(joint.sum(1))
    mutual = entropies - _entropy(joint.flatten(1))
    return 1 - 2 * mutual / entropies.clamp(min=1e-3)


def _parzen(values: Float[Tensor, "b n"], bins: int) -> Float[Tensor, "b n k"]:
    """Membership of each value in each bin; the memberships of a value from 0 to 1 sum to one."""
    steps = torch.arange(bins, device=values.device) - 1
    distance = (values[..., None] * (bins - 3) - steps).abs()
    near = 2 / 3 - distance.square() + distance.pow(3) / 2
    return torch.where(distance < 1, near, (2 - distance).clamp(min=0).pow(3) / 6)


def _entropy(probability: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    return -(probability * probability.clamp(min=1e-12).log()).sum(1)


def correlation_ratio(
    fixed: Float[Tensor, "1 n"], moving: Float[Tensor, "k n"], weight: Float[Tensor, "#k n"] | None = None
) -> Float[Tensor, " k"]:
    """Fraction of the variance of ``moving`` that any function of ``fixed`` explains: 0 to 1.

    Each fixed intensity, from 0 to 1, is divided linearly between two of `BINS` bins (Roche et al., MICCAI
    1998). Points are weighted by ``weight``, if it is given.
    """
    return explained_fraction(bin_memberships(fixed), moving, weight)


def bin_memberships(fixed: Float[Tensor, "1 n"]) -> Float[Tensor, "n m"]:
    """The part of each intensity in each of `BINS` bins (see `correlation_ratio`)."""
    steps = torch.arange(BINS, device=fixed.device) / (BINS - 1)
    return (1 - (fixed[0, :, None] - steps).abs() * (BINS - 1)).clamp(min=0)


def explained_fraction(
    memberships: Float[Tensor, "n m"],
    moving: Float[Tensor, "k n"],
    weight: Float[Tensor, "#k n"] | None = None,
) -> Float[Tensor, " k"]:
    """`correlation_ratio` to intensities of which the `bin_memberships` are known."""
    if weight is None:
        weighted, total, sizes = moving, moving.shape[1], torch.ones_like(moving[:1]) @ memberships
    else:
        weighted, total = weight * moving, weight.sum(1, keepdim=True).clamp(min=1e-3)
        sizes = weight @ memberships
    sizes = sizes.clamp(min=1e-3)
    means = weighted @ memberships / sizes
    mean = weighted.sum(1, keepdim=True) / total
    squares = (moving - mean).square()
    variance = (squares if weight is None else weight * squares).sum(1)
    return (sizes * (means - mean).square()).sum(1) / variance.clamp(min=1e-6)


def correlation_map(
    fixed: Float[Tensor, "b 1 x y z"], moving: Float[Tensor, "b 1 x y z"], radius: int
) -> tuple[Float[Tensor, "b 1 x y z"], Float[Tensor, "b 1 x y z"]]:
    """Squared local normalised cross-correlation (Avants et al., Med Image Anal 2008), and voxel weights.

    Means are over boxes of ``2 radius + 1`` voxels a side. ``NOISE`` is added to the covariance and to both
    variances, as if the images shared a pattern of that variance, so the correlation tends to one where they
    vary by less. A voxel has the weight v / (v + ``STRUCTURE``), where v is the local variance of the fixed
    image: uniform tissue is left to the regulariser, and empty background has weight zero
    (docs/decisions/008). Computed in float32, since variances are small differences of large sums. Only
    ``moving`` receives a gradient.
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


def structure(fixed: Float[Tensor, "b 1 x y z"], radius: int = 3) -> Float[Tensor, "b 1 x y z"]:
    """Weight of each voxel, from 0 in uniform surroundings to nearly 1 (see `correlation_map`)."""
    fixed = fixed.float().detach()
    mean, square = _BoxMean.apply(torch.cat([fixed, fixed * fixed], 1), radius).split(1, 1)
    variance = (square - mean * mean).clamp(min=0)
    return variance / (variance + STRUCTURE)


def self_similarity(image: Float[Tensor, "b 1 x y z"], radius: int = 1) -> Float[Tensor, "b 12 x y z"]:
    """MIND-SSC (Heinrich et al., MICCAI 2013): similarity of a voxel's neighbours, 0 to 1, in any contrast.

    The twelve channels are the pairs of non-opposite voxels among the six nearest neighbours. Each is
    computed from the mean squared difference over boxes of ``2 radius + 1`` voxels a side, less the smallest
    of the twelve and relative to their mean.
    """
    padded = functional.pad(image.float(), [1] * 6, mode="replicate")
    inner = slice(1, -1)
    ends = [
        padded[(..., *(part if k == axis else inner for k in range(3)))]
        for axis in range(3)
        for part in (slice(2, None), slice(None, -2))
    ]
    pairs = [(a, b) for a in range(6) for b in range(a) if a // 2 != b // 2]
    squares = torch.cat([(ends[a] - ends[b]).square() for a, b in pairs], dim=1)
    distances = _BoxMean.apply(squares, radius)
    distances = distances - distances.amin(1, keepdim=True)
    return torch.exp(-distances / (distances.mean(1, keepdim=True) + NOISE / 3))


class _BoxMean(torch.autograd.Function):
    """Mean over a box around each voxel, restricted to the array and computed along one axis at a time.

    The adjoint is a box sum, too, so the backward pass is as cheap as the forward pass; that of
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
    """Inverse of the number of voxels of each box that lie inside the array."""
    result = torch.ones((), device=values.device)
    for axis, size in enumerate(values.shape[2:]):
        index = torch.arange(size, device=values.device)
        inside = (index + radius).clamp(max=size - 1) - (index - radius).clamp(min=0) + 1
        result = result / inside.reshape([-1 if k == axis else 1 for k in range(3)])
    return result
