"""Errors against ground truth: a true map, landmarks, or label maps of both images."""

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

HUBER_MM = 2.0
"""Distance above which errors count linearly, so that chains with a large initial error do not dominate."""
PARTIAL_SUMS = 64
"""Partial sums per label: neighbouring points add to different ones, which avoids contention on a GPU."""


def point_error(
    mapped: Float[Tensor, "b *n 3"], truth: Float[Tensor, "b *n 3"], mask: Bool[Tensor, "b *n"]
) -> Float[Tensor, " b"]:
    """Mean Huber distance (mm) between two maps of the same points, over ``mask``: one value per patch."""
    # The gradient of the square root is infinite at zero; 1e-6 mm² is negligible.
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
    """One minus the soft Dice overlap, mean over the labels present in the fixed patch: one value per patch.

    Equal to Dice between the fixed and the trilinearly warped moving one-hot volumes (Balakrishnan et al.,
    VoxelMorph, IEEE TMI 2019) without one-hot arrays: overlaps and sizes are summed by label.

    Args:
        fixed: label index at each point, 0 for background.
        corners: label indices of the eight moving voxels around each mapped point.
        weights: trilinear weights of the corners, which carry the gradient.
        count: the largest label index.
    """
    fixed, corners = fixed.long(), corners.long()
    batch, labels_and_none = len(fixed), count + 1

    def by_label(labels: Int[Tensor, "b n"], values: Float[Tensor, "b n"]) -> Float[Tensor, "b l"]:
        partial = torch.arange(labels.shape[1], device=labels.device) % PARTIAL_SUMS
        sums = values.new_zeros(batch, PARTIAL_SUMS * labels_and_none)
        sums = sums.scatter_add(1, labels + partial * labels_and_none, values)
        return sums.reshape(batch, PARTIAL_SUMS, labels_and_none).sum(1)[:, 1:]

    agreement = (weights * (corners == fixed[:, None])).sum(1)
    size_fixed = by_label(fixed, torch.ones_like(agreement))
    size_moving = by_label(corners.flatten(1), weights.flatten(1))
    present = (size_fixed > 0).float()
    overlap = 2 * by_label(fixed, agreement) / (size_fixed + size_moving).clamp(min=1)
    return ((1 - overlap) * present).sum(1) / present.sum(1).clamp(min=1)
