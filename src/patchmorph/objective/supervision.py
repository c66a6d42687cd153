"""How far from what is known: a true map, landmarks, or label maps of both images."""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

HUBER_MM = 2.0
"""Errors above this count linearly, so that a chain that starts far off does not outweigh the others."""
LANES = 64
"""Sums kept side by side for every label: neighbouring points add to different ones, so that a GPU need not
wait for one address."""


def point_error(
    mapped: Float[Tensor, "b *n 3"], truth: Float[Tensor, "b *n 3"], mask: Bool[Tensor, "b *n"]
) -> Float[Tensor, " b"]:
    """Mean Huber distance (mm) between two maps of the same points, over ``mask``: one value a patch."""
    # The square root of zero has no gradient; 1e-6 mm² moves no distance that matters.
    distance = ((mapped - truth).square().sum(-1) + 1e-6).sqrt()
    huber = torch.where(distance < HUBER_MM, distance.square() / (2 * HUBER_MM), distance - HUBER_MM / 2)
    flat = tuple(range(1, distance.ndim))
    return (huber * mask).sum(flat) / mask.sum(flat).clamp(min=1)


def soft_dice_loss(
    fixed: Shaped[Tensor, "b m"],
    corners: Shaped[Tensor, "b 8 m"],
    weights: Float[Tensor, "b 8 m"],
    count: int,
) -> Float[Tensor, " b"]:
    """One minus the soft Dice overlap, mean over the labels that the fixed patch has: one value a patch.

    Equal to Dice between the fixed one-hot volumes and trilinearly warped moving ones (Balakrishnan et al.,
    VoxelMorph, IEEE TMI 2019), but no one-hot array is ever made: overlaps and sizes are sums by label.

    Args:
        fixed: numbers of the labels at each point, 0 for none.
        corners: those of the eight moving voxels around where each point goes.
        weights: of the corners; the gradient flows through these.
        count: the largest number.
    """
    fixed, corners = fixed.long(), corners.long()
    batch, labels_and_none = len(fixed), count + 1

    def by_label(labels: Int[Tensor, "b n"], values: Float[Tensor, "b n"]) -> Float[Tensor, "b l"]:
        lane = torch.arange(labels.shape[1], device=labels.device) % LANES
        sums = values.new_zeros(batch, LANES * labels_and_none)
        sums = sums.scatter_add(1, labels + lane * labels_and_none, values)
        return sums.reshape(batch, LANES, labels_and_none).sum(1)[:, 1:]

    agreement = (weights * (corners == fixed[:, None])).sum(1)
    size_fixed = by_label(fixed, torch.ones_like(agreement))
    size_moving = by_label(corners.flatten(1), weights.flatten(1))
    present = (size_fixed > 0).float()
    overlap = 2 * by_label(fixed, agreement) / (size_fixed + size_moving).clamp(min=1)
    return ((1 - overlap) * present).sum(1) / present.sum(1).clamp(min=1)
