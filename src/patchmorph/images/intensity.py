"""Intensity maps, which are applied when voxels are read, and the window that normalises images to 0…1."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.images.abstract import AbstractImage
from patchmorph.spatial.grid import Grid

Blocks = Callable[[], Iterator[Float[Tensor, "*n"]]]
"""Each call returns an iterator over all voxels of a volume, block by block."""

DARK_FRACTION = 0.01
"""Fraction of the voxels that are mapped to 0: a few voxels far below the background (such as undershoot of
resampling) do not shift the window."""
BRIGHT_FRACTION = 0.002
"""Fraction of the remaining voxels that are mapped to 1."""
DIGITS = 2**16
"""Values of the upper and of the lower half of the bits of float32."""
BRIGHT_BACKGROUND = 0.5
"""Median intensity of the array's faces, relative to the window, above which the background is bright."""


class IntensityMap(ABC):
    """Contract: a function of the float32 voxels of a block and of the grid of that block."""

    @abstractmethod
    def __call__(self, values: Float[Tensor, "1 c x y z"], grid: Grid) -> Float[Tensor, "1 c x y z"]:
        """The mapped values of the voxels of ``grid``."""


@dataclass(frozen=True)
class Window(IntensityMap):
    """Map ``low`` to 0 and ``high`` to 1 (exchanged if ``inverted``); intensities beyond are clamped."""

    low: float
    high: float
    inverted: bool = False

    def __call__(self, values: Float[Tensor, "1 c x y z"], grid: Grid) -> Float[Tensor, "1 c x y z"]:
        """Values from 0 to 1."""
        width = float(torch.tensor(self.high) - torch.tensor(self.low))
        scaled = (values - self.low).clamp_(min=0).div_(width).clamp_(max=1)
        return 1 - scaled if self.inverted else scaled


@dataclass(frozen=True)
class Masked(IntensityMap):
    """Set voxels to zero where ``mask``, sampled at ``spacing_mm``, does not exceed ``threshold``."""

    mask: AbstractImage
    threshold: float
    spacing_mm: float

    def __call__(self, values: Float[Tensor, "1 c x y z"], grid: Grid) -> Float[Tensor, "1 c x y z"]:
        """The values, zero outside the mask."""
        return values * (self.mask.sample(grid.points_world(), self.spacing_mm) > self.threshold)


@dataclass(frozen=True)
class Curve(IntensityMap):
    """Piecewise linear curve through ``knots`` at equal steps from 0 to 1; zero up to ``background``."""

    knots: Float[Tensor, " k"]
    background: float

    def __call__(self, values: Float[Tensor, "1 c x y z"], grid: Grid) -> Float[Tensor, "1 c x y z"]:
        """The curve at the values."""
        last = len(self.knots) - 1
        place = values.clamp(0, 1) * last
        lower = place.floor().clamp(max=last - 1).long()
        mapped = self.knots[lower] + (self.knots[lower + 1] - self.knots[lower]) * (place - lower)
        return torch.where(values > self.background, mapped, 0)


def normalizing_window(blocks: Blocks, faces: Sequence[Float[Tensor, " _"]], name: str) -> Window:
    """The window from the first percentile of the voxels to the 99.8th percentile of those above it.

    If most voxels on the faces of the array are bright, the background is bright: the window is inverted, so
    that the background becomes 0.

    Args:
        blocks: all voxels.
        faces: the voxels of the six faces.
        name: of the image, for messages.

    Raises:
        PatchMorphError: values are not finite, or none exceeds the first percentile.
    """
    statistics = OrderStatistics(blocks)
    if statistics.not_finite:
        raise PatchMorphError(
            f"image must be finite everywhere, got {statistics.not_finite} NaN or infinite voxels in {name}"
        )
    low, up_to_low = statistics.smallest(max(1, round(DARK_FRACTION * statistics.count)))
    above = statistics.count - up_to_low
    if above == 0:
        raise PatchMorphError(f"image must have content, got {low:g} in every voxel of {name}")
    high, _ = statistics.smallest(statistics.count + 1 - max(1, round(BRIGHT_FRACTION * above)))
    middle = low + BRIGHT_BACKGROUND * (high - low)
    return Window(low, high, inverted=bool(torch.cat(list(faces)).median() > middle))


class OrderStatistics:
    """Exact order statistics of all voxels in constant memory: a radix select over the bits of float32.

    Attributes:
        count: number of voxels.
        not_finite: number of voxels that are NaN or infinite.
    """

    def __init__(self, blocks: Blocks):
        self.count = self.not_finite = 0
        self._blocks = blocks
        self._upper = torch.zeros(DIGITS, dtype=torch.int64)
        for values in blocks():
            self.count += values.numel()
            self.not_finite += int((~torch.isfinite(values)).sum())
            self._upper += _histogram((_ordered_bits(values) >> 16) + DIGITS // 2)

    def smallest(self, rank: int) -> tuple[float, int]:
        """The ``rank``-th smallest value (from 1), and the number of voxels that are at most this value."""
        upper = int(torch.searchsorted(self._upper.cumsum(0), rank))
        below = int(self._upper[:upper].sum())
        counts = torch.zeros(DIGITS, dtype=torch.int64)
        for values in self._blocks():
            keys = _ordered_bits(values)
            counts += _histogram((keys & (DIGITS - 1))[keys >> 16 == upper - DIGITS // 2])
        cumulative = below + counts.cumsum(0)
        lower = int(torch.searchsorted(cumulative, rank))
        bits = (upper - DIGITS // 2) << 16 | lower
        value = torch.tensor(bits ^ (0x7FFFFFFF if bits < 0 else 0), dtype=torch.int32).view(torch.float32)
        return float(value), int(cumulative[lower])


def _histogram(digits: Int[Tensor, " n"]) -> Int[Tensor, " d"]:
    return torch.bincount(digits, minlength=DIGITS).cpu()


def _ordered_bits(values: Float[Tensor, "*n"]) -> Int[Tensor, " m"]:
    """The bits of float32 values as integers that sort as the values do."""
    bits = (values + 0.0).contiguous().view(torch.int32).flatten()  # no negative zero
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
