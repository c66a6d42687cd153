"""Intensities of one image as those of another, so that agreement is grey and differences are near zero."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

LEVELS = 256
MIN_CORRELATION = 0.5
"""Above this correlation both images have one contrast, and the order of their intensities is kept."""
DARKEST = 0.01
"""Quantile of the warped intensities below which the function runs straight to 0."""
SMOOTHING = 4.0
"""Standard deviation (levels) of the Gaussian over which means of unlike contrasts are taken."""


@dataclass(frozen=True)
class Matching:
    """A function of intensities.

    Attributes:
        table: the intensity of the fixed image for each of the warped one.
        monotone: whether the order of intensities is kept (quantiles are matched); else each intensity has
            the mean that the fixed image shows there, as between T1 and T2.
    """

    table: UInt8[ndarray, "256"]
    monotone: bool

    @classmethod
    def of(cls, fixed: UInt8[ndarray, " n"], warped: UInt8[ndarray, " n"]) -> "Matching":
        """The function between intensities at the same points."""
        joint = np.bincount(warped * np.int64(LEVELS) + fixed, minlength=LEVELS**2).reshape(LEVELS, LEVELS)
        monotone = _correlation(joint) >= MIN_CORRELATION
        table = _quantiles(joint) if monotone else _means(joint)
        return cls(np.round(table).clip(0, LEVELS - 1).astype(np.uint8), monotone)

    def __call__(self, values: UInt8[ndarray, "*n"]) -> UInt8[ndarray, "*n"]:
        """The matched ``values``; 0, where nothing is shown, stays."""
        return self.table[values]


def _correlation(joint: ndarray) -> float:
    """Pearson's correlation of a joint histogram; 0 where an image has one intensity."""
    count, levels = max(1, joint.sum()), np.arange(LEVELS)
    first, second = joint.sum(1) / count, joint.sum(0) / count
    a, b = levels - first @ levels, levels - second @ levels
    spread = (first @ a**2) * (second @ b**2)
    return float(a @ (joint / count) @ b / np.sqrt(spread)) if spread > 0 else 0.0


def _quantiles(joint: ndarray) -> Float[ndarray, "256"]:
    """For each intensity of the first axis the quantile of the second one (histogram matching)."""
    warped, fixed = joint.sum(1), joint.sum(0)
    middle = (np.cumsum(warped) - warped / 2) / max(1, warped.sum())
    place = (np.cumsum(fixed) - fixed / 2) / max(1, fixed.sum())
    table = np.interp(middle, place, np.arange(LEVELS))
    first = int(np.searchsorted(middle, DARKEST))
    table[:first] = table[first] * np.arange(first) / max(1, first)  # what is darker is hardly there
    return table


def _means(joint: ndarray) -> Float[ndarray, "256"]:
    """For each intensity of the first axis the mean of the second one, over neighbouring intensities."""
    levels = np.arange(LEVELS)
    kernel = np.exp(-0.5 * ((levels[:, None] - levels) / SMOOTHING) ** 2)
    counts, sums = kernel @ joint.sum(1), kernel @ (joint @ levels)
    known = counts > 0.5
    if not known.any():
        return levels.astype(float)
    means = (sums / np.maximum(counts, 1e-9))[known]
    return np.where(levels == 0, 0, np.interp(levels, levels[known], means))
