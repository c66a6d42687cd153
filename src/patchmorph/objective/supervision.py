"""How far from a known truth: for pairs whose true map is known in closed form."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

HUBER_MM = 2.0
"""Errors above this count linearly, so that a chain that starts far off does not outweigh the others."""


def point_error(
    mapped: Float[Tensor, "b *n 3"], truth: Float[Tensor, "b *n 3"], mask: Bool[Tensor, "b *n"]
) -> Float[Tensor, " b"]:
    """Mean Huber distance (mm) between two maps of the same points, over ``mask``: one value a patch."""
    # The square root of zero has no gradient; 1e-6 mm² moves no distance that matters.
    distance = ((mapped - truth).square().sum(-1) + 1e-6).sqrt()
    huber = torch.where(distance < HUBER_MM, distance.square() / (2 * HUBER_MM), distance - HUBER_MM / 2)
    flat = tuple(range(1, distance.ndim))
    return (huber * mask).sum(flat) / mask.sum(flat).clamp(min=1)
