"""Figures of merit: pure functions of labels, points and Jacobians."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def dice(fixed: Int[Tensor, "*n"], warped: Int[Tensor, "*n"], labels: list[int]) -> dict[int, float]:
    """Dice overlap of each label: 2 |A ∩ B| / (|A| + |B|); NaN where neither image has it."""
    both, in_fixed, in_warped = _count(fixed[fixed == warped]), _count(fixed), _count(warped)
    overlaps = {}
    for label in labels:
        size = in_fixed.get(label, 0) + in_warped.get(label, 0)
        overlaps[label] = 2 * both.get(label, 0) / size if size else float("nan")
    return overlaps


def folding_fraction(determinant: Float[Tensor, "x y z"], mask: Bool[Tensor, "x y z"]) -> float:
    """Share of the voxels in ``mask`` whose Jacobian determinant is ≤ 0."""
    return float((determinant[mask] <= 0).float().mean())


def sd_log_jacobian(determinant: Float[Tensor, "x y z"], mask: Bool[Tensor, "x y z"]) -> float:
    """Standard deviation of the log determinant in ``mask``, determinants below 1e-9 counted as 1e-9."""
    return float(determinant[mask].clamp(min=1e-9).log().std())


def tre_mm(mapped: Float[Tensor, "*n 3"], truth: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n"]:
    """Target registration error: the distance between mapped points and where they belong."""
    return (mapped - truth).norm(dim=-1)


def correlation(fixed: Float[Tensor, "*n"], warped: Float[Tensor, "*n"], mask: Bool[Tensor, "*n"]) -> float:
    """Pearson correlation of intensities in ``mask``; 0 where one image does not vary."""
    a, b = fixed[mask].double(), warped[mask].double()
    a, b = a - a.mean(), b - b.mean()
    norm = a.norm() * b.norm()
    return float((a * b).sum() / norm) if norm > 0 else 0.0


def _count(labels: Tensor) -> dict[int, int]:
    ids, counts = torch.unique(labels, return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))
