"""Intervals of means and paired tests, exact for few pairs.

SciPy has both, but is 143 MB that no other command needs (docs/decisions/006); the tests compare with it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

LEVEL = 0.95
"""Of intervals."""
RESAMPLES = 10_000
MIN_PAIRS = 6
"""Pairs that differ from which on a two-sided signed-rank test can reach 0.05: with 5, p is at least 2/2⁵."""
MAX_EXACT = 200
"""Pairs up to which the distribution of rank sums is computed; beyond, a normal one is as good."""


@dataclass(frozen=True)
class Interval:
    """An interval of a mean.

    Attributes:
        low: NaN where it is undefined.
        high: likewise.
        note: why it is undefined.
    """

    low: float = math.nan
    high: float = math.nan
    note: str = ""


@dataclass(frozen=True)
class PairedTest:
    """A two-sided test.

    Attributes:
        p: NaN where it is undefined.
        note: why it is undefined.
    """

    p: float = math.nan
    note: str = ""


class Bootstrap:
    """Percentile bootstrap intervals of means (Efron & Tibshirani, 1993).

    Args:
        generator: draws the pairs of each resample, the same ones for all figures of as many pairs.
        level: share of the resampled means inside.
        resamples: their number.
    """

    def __init__(self, generator: torch.Generator, level: float = LEVEL, resamples: int = RESAMPLES):
        self._generator, self._resamples = generator, resamples
        self._ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        self._shares: dict[int, torch.Tensor] = {}

    def interval(self, values: Sequence[float]) -> Interval:
        """The interval of the mean of ``values``, one of each pair, finite."""
        sample = torch.tensor(values, dtype=torch.float64)
        if len(sample) < 2:
            return Interval(note=f"an interval needs 2 pairs, got {len(sample)}")
        if bool((sample == sample[0]).all()):
            return Interval(note="all pairs are equal")
        low, high = (self._shares_of(len(sample)) @ sample).quantile(self._ends).tolist()
        return Interval(low, high)

    def _shares_of(self, count: int) -> torch.Tensor:
        """How much of each resample every pair is, ``[resamples, count]``."""
        if count not in self._shares:
            drawn = torch.randint(count, (self._resamples, count), generator=self._generator)
            ones = torch.full(drawn.shape, 1 / count, dtype=torch.float64)
            self._shares[count] = torch.zeros_like(ones).scatter_add_(1, drawn, ones)
        return self._shares[count]


def signed_rank_test(differences: Sequence[float]) -> PairedTest:
    """Wilcoxon's signed-rank test (Biometrics Bulletin, 1945) of paired differences.

    Differences of zero are left out, equal ones share the mean of their ranks. Up to `MAX_EXACT` pairs p is
    the share of all choices of signs whose rank sum is as far from its mean, which is exact with ties, too;
    beyond, the rank sum is taken as normal.
    """
    found = np.asarray([one for one in differences if one], dtype=np.float64)
    if not len(found):
        return PairedTest(note="no pair differs")
    if len(found) < MIN_PAIRS:
        return PairedTest(note=f"a test needs {MIN_PAIRS} pairs that differ, got {len(found)}")
    doubled = _doubled_ranks(np.abs(found))
    distance = abs(2 * int(doubled[found > 0].sum()) - int(doubled.sum()))
    if len(found) > MAX_EXACT:
        return PairedTest(math.erfc(distance / math.sqrt(2 * float((doubled.astype(float) ** 2).sum()))))
    return PairedTest(_share_as_far(doubled, distance))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down method (Scand. J. Statist., 1979).

    Those that are NaN stay so, and do not count.
    """
    corrected = [math.nan] * len(p_values)
    order = sorted((p, k) for k, p in enumerate(p_values) if not math.isnan(p))
    least = 0.0
    for rank, (p, k) in enumerate(order):
        least = max(least, min(1.0, p * (len(order) - rank)))
        corrected[k] = least
    return corrected


def _doubled_ranks(values: np.ndarray) -> np.ndarray:
    """Twice the rank of each value, which is whole where equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (2 * last - counts + 1)[inverse]


def _share_as_far(ranks: np.ndarray, distance: int) -> float:
    """The share of the choices of signs for which the sum of ``ranks`` with their signs is as far from 0."""
    total = int(ranks.sum())
    ways = np.zeros(total + 1)
    ways[0] = 1.0
    for rank in ranks.tolist():  # with half of its weight, a rank adds to the positive sum
        ways[rank:] = (ways[rank:] + ways[: len(ways) - rank]) / 2
        ways[:rank] /= 2
    sums = 2 * np.arange(total + 1) - total
    return min(1.0, float(ways[np.abs(sums) >= distance].sum()))
