"""Voxels whose intensities lie far outside those of all others, recognised in a histogram.

Padding is a value far below all others (what a scanner or a resampling wrote where there is nothing) or far
above them on the faces of the array. Stray voxels are a few per cent far below or above (defects, markers,
implants). Background and tissue are what is left.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from patchmorph.images.histogram import OrderStatistics, bin_values

STRAY_FRACTION = 0.03
"""Fraction of the voxels that may lie far outside the intensities of all others."""
DARK_GAP, NEGATIVE_GAP, BRIGHT_GAP = 1.5, 0.3, 1.0
"""Distance of padding from all other intensities, in the width of their window: for a minimum of 0 or above
(0 is the usual background), for a negative minimum, for a maximum."""
STRAY_GAP = 1.0
"""The same for stray dark voxels."""
EMPTY, EMPTY_FRACTION = 0.06, 0.1
"""Width, relative to the window, of the darkest intensities, and the fraction of the voxels that have them if
they are background: only then is a value below them padding and not the background itself."""
PADDED_FACES = 0.1
"""Fraction of the faces' voxels that bright padding makes up, at least."""
CONTENT, MIN_CONTENT = 0.06, 0.025
"""Intensity above which voxels are content, relative to the window, and the fraction of the voxels that are
content, at least: fewer at the top of the window are stray voxels."""
BRIGHTEST, MIN_REST = 0.02, 0.2
"""Fraction of the voxels that may be stray whatever lies between them and tissue, and the fraction of the
content that is left without them, at least."""
BODY, MAX_WINDOW = 0.8, 3.3
"""Quantile of the content without its brightest voxels, and the largest width of a window relative to it: 1.2
to 1.4 for brains, 1.9 to 2.3 for human heads, 3.2 for a marmoset's head, above 3.5 where markers are three
times as bright as white matter."""
BRIGHT_FRACTION = 0.002
"""Fraction of the voxels above the background that a window leaves out at its upper end."""
SHRINKING, MIN_SHRINKING = 0.9, 1e-5
"""Ratio of successive upper ends that are tried, and of the last to the first."""


@dataclass(frozen=True)
class Bins:
    """Consecutive occupied bins of the histogram of a volume.

    Attributes:
        values: smallest intensity in each bin, in rising order; then infinity.
        counts: voxels in each bin.
        below: voxels in bins before the first.
    """

    values: Float[np.ndarray, " n_plus_one"]
    counts: Int[np.ndarray, " n"]
    below: int = 0

    @classmethod
    def of(cls, statistics: OrderStatistics) -> "Bins":
        """All occupied bins."""
        indices = statistics.histogram.nonzero()[:, 0]
        values = np.append(bin_values(indices).double().numpy(), np.inf)
        return cls(values, statistics.histogram[indices].numpy())

    @property
    def total(self) -> int:
        """Voxels in all bins."""
        return int(self.counts.sum())

    def part(self, first: int, last: int | None = None) -> "Bins":
        """The bins from ``first`` up to, but not including, ``last``."""
        last = len(self.counts) if last is None else last
        return Bins(
            self.values[first : last + 1],
            self.counts[first:last],
            self.below + int(self.counts[:first].sum()),
        )

    def place(self, fraction: float) -> int:
        """The bin with the quantile ``fraction``."""
        return min(int(np.searchsorted(self.counts.cumsum(), fraction * self.total)), len(self.counts) - 1)

    def quantile(self, fraction: float) -> float:
        """The smallest intensity in the bin with the quantile ``fraction``."""
        return float(self.values[self.place(fraction)])

    def without_padding(self, border: Float[Tensor, " n"]) -> "Bins":
        """The bins without padding and without stray dark voxels.

        Args:
            border: intensities of the voxels on the faces of the array.
        """
        bins = self
        while (first := bins._padded_below()) > 0:
            bins = bins.part(first)
        return bins.part(0, bins._padded_above(border))

    def without_stray_bright_voxels(self, low: float, widest: float = MAX_WINDOW) -> "Bins":
        """The bins up to the largest intensity that can be the top of the content's window.

        Args:
            low: lower end of the window.
            widest: the largest width of the window, relative to a quantile of the content.
        """
        above = self.part(self._bin_above(low))
        if above.total == 0:
            return self
        whole = width = above.quantile(1 - BRIGHT_FRACTION) - low
        while width > MIN_SHRINKING * whole:
            bottom, top = low + CONTENT * width, low + width
            first, last = self._bin_above(bottom), self._bin_above(top)
            content = self.part(first, last)
            rest = max(MIN_REST, 1 - BRIGHTEST * self.total / max(1, content.total))
            if content.total >= MIN_CONTENT * self.total and (
                width <= widest * (content.quantile(BODY * rest) - low)
            ):
                return self if width == whole else self.part(0, last)
            width *= SHRINKING
        return self

    def _padded_below(self) -> int:
        """Number of bins that are padding or stray below all others."""
        minimum, high = float(self.values[0]), self.quantile(1 - BRIGHT_FRACTION)
        for usual, gap in (
            (self.place(STRAY_FRACTION), STRAY_GAP),
            (1 + self.part(1).place(STRAY_FRACTION), NEGATIVE_GAP if minimum < 0 else DARK_GAP),
        ):
            if usual >= len(self.counts):
                continue
            low = float(self.values[usual])
            first = self._bin_above((minimum + low) / 2)
            is_far = high > low and low - minimum > gap * (high - low)
            is_few = int(self.counts[:first].sum()) <= STRAY_FRACTION * self.total
            if is_far and (is_few or self.part(first)._has_background(low, high)):
                return first
        return 0

    def _padded_above(self, border: Float[Tensor, " n"]) -> int:
        """Number of bins up to bright padding."""
        rest = self.part(0, len(self.counts) - 1)
        if rest.total == 0 or int(self.counts[-1]) < STRAY_FRACTION * self.total:
            return len(self.counts)
        low, high, maximum = float(rest.values[0]), rest.quantile(1 - STRAY_FRACTION), float(self.values[-2])
        on_faces = float((border > high).float().mean()) if len(border) else 0.0
        is_far = high > low and maximum - high > BRIGHT_GAP * (high - low)
        if is_far and on_faces >= PADDED_FACES and rest._has_background(low, high):
            return self._bin_above((high + maximum) / 2)
        return len(self.counts)

    def _bin_above(self, value: float) -> int:
        """The first bin whose intensities exceed ``value``."""
        return int(np.searchsorted(self.values[:-1], value, side="right"))

    def _has_background(self, low: float, high: float) -> bool:
        """Whether many voxels have the darkest intensities of a window, and some have brighter ones."""
        dark = self.values[:-1] <= low + EMPTY * (high - low)
        fraction = float(self.counts[dark].sum()) / self.total
        return EMPTY_FRACTION <= fraction <= 1 - MIN_CONTENT
