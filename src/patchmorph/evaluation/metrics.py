"""Metrics: pure functions of labels, points, intensities and Jacobian determinants."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from patchmorph.evaluation.overlap import Overlap

MIN_DETERMINANT = 1e-9
"""Lower bound of determinants in the SD of the log-Jacobian, as in the Learn2Reg challenges."""


@dataclass
class Moments:
    """Running sums over pairs of values in float64, so that large volumes can be measured block by block."""

    count: int = 0
    sum_a: float = 0.0
    sum_b: float = 0.0
    sum_aa: float = 0.0
    sum_bb: float = 0.0
    sum_ab: float = 0.0

    def add(self, a: Float[Tensor, "*n"], b: Float[Tensor, "*n"]) -> None:
        """Add pairs of values."""
        a, b = a.double(), b.double()
        self.count += a.numel()
        self.sum_a += float(a.sum())
        self.sum_b += float(b.sum())
        self.sum_aa += float((a * a).sum())
        self.sum_bb += float((b * b).sum())
        self.sum_ab += float((a * b).sum())

    def __add__(self, other: "Moments") -> "Moments":
        """The sums over the pairs of both."""
        return Moments(*(getattr(self, sums.name) + getattr(other, sums.name) for sums in fields(self)))

    def correlation(self) -> float:
        """Pearson correlation; 0 if either side is constant."""
        if not self.count:
            return 0.0
        a = self.sum_aa - self.sum_a**2 / self.count
        b = self.sum_bb - self.sum_b**2 / self.count
        product = self.sum_ab - self.sum_a * self.sum_b / self.count
        varies = a > 1e-12 * self.sum_aa and b > 1e-12 * self.sum_bb
        return product / math.sqrt(a * b) if varies else 0.0

    def deviation(self) -> float:
        """Sample standard deviation of the first values; NaN for fewer than two."""
        if self.count < 2:
            return math.nan
        return math.sqrt(max(0.0, self.sum_aa - self.sum_a**2 / self.count) / (self.count - 1))


def dice(fixed: Int[Tensor, "*n"], warped: Int[Tensor, "*n"], labels: list[int]) -> dict[int, float]:
    """Dice overlap of each label: 2 |A ∩ B| / (|A| + |B|); NaN for a label in neither image."""
    return Overlap.of(fixed, warped).dice(labels)


def jaccard(fixed: Int[Tensor, "*n"], warped: Int[Tensor, "*n"], labels: list[int]) -> dict[int, float]:
    """Jaccard index of each label: |A ∩ B| / |A ∪ B|; NaN for a label in neither image."""
    return Overlap.of(fixed, warped).jaccard(labels)


def target_overlap(
    fixed: Int[Tensor, "*n"], warped: Int[Tensor, "*n"], labels: list[int]
) -> dict[int, float]:
    """Share of each label of the fixed image that is covered: |A ∩ B| / |A|; NaN where A is empty.

    Klein et al., NeuroImage 2009.
    """
    return Overlap.of(fixed, warped).target_overlap(labels)


def folding_fraction(determinant: Float[Tensor, "x y z"], mask: Bool[Tensor, "x y z"]) -> float:
    """Fraction of the voxels in ``mask`` whose Jacobian determinant is ≤ 0."""
    return float((determinant[mask] <= 0).float().mean())


def log_jacobian(determinant: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Natural logarithm of Jacobian determinants, clamped below at `MIN_DETERMINANT`."""
    return determinant.clamp(min=MIN_DETERMINANT).log()


def sd_log_jacobian(determinant: Float[Tensor, "x y z"], mask: Bool[Tensor, "x y z"]) -> float:
    """Standard deviation of the log-Jacobian in ``mask``."""
    return float(log_jacobian(determinant[mask]).std())


def seam_ratio(
    values: Float[Tensor, "x y z"], lattice_index: Sequence[Float[Tensor, " _"]], mask: Bool[Tensor, "x y z"]
) -> float:
    """Mean absolute step between neighbouring voxels across the borders of a lattice, over that elsewhere.

    About 1 where the lattice does not show; NaN without a step of either kind.

    Args:
        values: such as the log-Jacobian.
        lattice_index: for each axis the place of its voxels in the lattice, whose borders are the integers.
        mask: voxels between which steps count.
    """
    across, elsewhere = [], []
    for axis, index in enumerate(lattice_index):
        count = len(index) - 1
        counted = mask.narrow(axis, 0, count) & mask.narrow(axis, 1, count)
        steps, border = values.diff(dim=axis).abs(), index.floor().diff() != 0
        for kind, found in ((border, across), (~border, elsewhere)):
            chosen = kind.nonzero()[:, 0]
            found.append(steps.index_select(axis, chosen)[counted.index_select(axis, chosen)])
    return float(torch.cat(across).double().mean() / torch.cat(elsewhere).double().mean())


def tre_mm(mapped: Float[Tensor, "*n 3"], truth: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n"]:
    """Target registration error (mm): the distance between mapped points and their true positions."""
    return (mapped - truth).norm(dim=-1)


def inverse_consistency_mm(
    forward: Callable[[Tensor], Tensor], backward: Callable[[Tensor], Tensor], points: Float[Tensor, "1 n 3"]
) -> float:
    """Mean distance (mm) of ``backward(forward(x))`` from x over the ``points`` that are mapped, RAS+ mm."""
    return float(tre_mm(backward(forward(points)), points).double().nanmean())


def correlation(fixed: Float[Tensor, "*n"], warped: Float[Tensor, "*n"], mask: Bool[Tensor, "*n"]) -> float:
    """Pearson correlation of intensities in ``mask``; 0 if either image is constant there."""
    moments = Moments()
    moments.add(fixed[mask], warped[mask])
    return moments.correlation()
