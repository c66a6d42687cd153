"""Order statistics of all voxels of a volume, block by block."""

from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

Blocks = Callable[[], Iterator[Float[Tensor, "*n"]]]
"""Each call returns an iterator over all voxels of a volume, block by block."""

COUNTED = (torch.uint8, torch.int8, torch.int16)
"""Types of which each value is counted."""
DIGITS = 2**16
"""Values of the upper and of the lower half of the bits of float32."""


class OrderStatistics:
    """Exact order statistics of all finite voxels in constant memory, by a radix select over float32's bits.

    The first pass over the voxels makes a histogram whose bins are the values with the same upper half of
    their bits: their relative width is 1/128 or less.

    On CUDA the voxels of a block must be sorted (see `sorted_blocks`).

    Args:
        blocks: the voxels; or each of their values once, in rising order (see `sorted_or_counted`).
        counts: how often each of these occurs; ``None``: once.

    Attributes:
        count: number of finite voxels.
        not_finite: number of voxels that are NaN or infinite.
        histogram: int64 ``[DIGITS]``, finite voxels in each bin, in the order of their values.
    """

    def __init__(self, blocks: Blocks, counts: Int[Tensor, " n"] | None = None):
        self.count = self.not_finite = 0
        self._blocks, self._counts = blocks, counts
        self._selected: dict[int, tuple[float, int]] = {}
        self.histogram = torch.zeros(DIGITS, dtype=torch.int64)
        for values, counts in self._finite():
            self.count += values.numel() if counts is None else int(counts.sum())
            self.histogram += _histogram((_ordered_bits(values) >> 16) + DIGITS // 2, counts)

    def smallest(self, rank: int) -> tuple[float, int]:
        """The ``rank``-th smallest value (from 1), and the number of voxels that are at most this value."""
        if rank not in self._selected:
            self._selected[rank] = self._select(rank)
        return self._selected[rank]

    def _select(self, rank: int) -> tuple[float, int]:
        if self._counts is not None:
            ((values, counts),) = self._finite(count=False)
            assert counts is not None
            cumulative = counts.cumsum(0)
            place = int(torch.searchsorted(cumulative, rank))
            return float(values[place]), int(cumulative[place])
        upper = int(torch.searchsorted(self.histogram.cumsum(0), rank))
        below = int(self.histogram[:upper].sum())
        counts = torch.zeros(DIGITS, dtype=torch.int64)
        for values, _ in self._finite(count=False):
            keys = _ordered_bits(values)
            counts += _histogram((keys & (DIGITS - 1))[keys >> 16 == upper - DIGITS // 2])
        cumulative = below + counts.cumsum(0)
        lower = int(torch.searchsorted(cumulative, rank))
        value = _values(torch.tensor([(upper - DIGITS // 2) << 16 | lower]))
        return float(value), int(cumulative[lower])

    def _finite(self, count: bool = True) -> Iterator[tuple[Float[Tensor, "*n"], Int[Tensor, " n"] | None]]:
        for values in self._blocks():
            finite, counts = values.isfinite(), self._counts
            missing = ~finite
            absent = int(missing.sum() if counts is None else counts[missing].sum())
            self.not_finite += absent if count else 0
            if absent:
                values, counts = values[finite], None if counts is None else counts[finite]
            yield values, counts


def sorted_or_counted(
    blocks: Callable[[], Iterator[Tensor]], dtype: torch.dtype, device: torch.device
) -> tuple[Blocks, Int[Tensor, " n"] | None]:
    """Arguments of `OrderStatistics` for voxels of any type: small integers by their values."""
    if dtype in COUNTED:
        values, counts = counted(blocks(), dtype)
        return lambda: iter([values]), counts
    floats = lambda: (values.float() for values in blocks())  # noqa: E731
    return sorted_blocks(floats) if device.type == "cuda" else floats, None


def counted(blocks: Iterable[Int[Tensor, "*n"]], dtype: torch.dtype) -> tuple[Float[Tensor, " n"], Tensor]:
    """The values that occur in blocks of integers of at most 16 bits, and how often each does."""
    lowest, bins = torch.iinfo(dtype).min, 2 ** torch.iinfo(dtype).bits
    counts = torch.zeros(bins, dtype=torch.int64)
    for values in blocks:
        flat = values.flatten()
        if flat.is_cuda:  # see `_histogram`
            counts += histogram_of_sorted(flat.sort().values.int() - lowest, bins).cpu()
        else:
            counts += torch.bincount(flat.int() - lowest if lowest else flat, minlength=bins)
    found = counts.nonzero()[:, 0]
    return (found + lowest).float(), counts[found]


def sorted_blocks(blocks: Blocks) -> Blocks:
    """The same voxels in sorted blocks, as statistics on CUDA want them; a single block is kept in memory."""
    parts = [values.flatten().sort().values for values, _ in zip(blocks(), range(2), strict=False)]
    if len(parts) < 2:
        return lambda: iter(parts)
    return lambda: (values.flatten().sort().values for values in blocks())


def bin_values(indices: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The smallest float32 in each of the bins ``indices`` of `OrderStatistics.histogram`."""
    return _values((indices - DIGITS // 2) << 16)


def _values(ordered_bits: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    bits = torch.where(ordered_bits < 0, ordered_bits ^ 0x7FFFFFFF, ordered_bits)
    return bits.to(torch.int32).view(torch.float32)


def _histogram(digits: Int[Tensor, " n"], counts: Int[Tensor, " n"] | None = None) -> Int[Tensor, " d"]:
    if digits.is_cuda:  # ``bincount`` would add many voxels of one value to one address there, one by one
        return histogram_of_sorted(digits).cpu()
    if counts is not None:
        return torch.zeros(DIGITS, dtype=torch.int64).index_add_(0, digits.long(), counts)
    return torch.bincount(digits, minlength=DIGITS)


def histogram_of_sorted(digits: Int[Tensor, " n"], count: int = DIGITS) -> Int[Tensor, " d"]:
    """How often each of ``count`` digits occurs in a sorted list."""
    ends = torch.searchsorted(digits, torch.arange(1, count + 1, dtype=digits.dtype, device=digits.device))
    return ends.diff(prepend=ends.new_zeros(1))


def _ordered_bits(values: Float[Tensor, "*n"]) -> Int[Tensor, " m"]:
    """The bits of float32 values as integers that sort as the values do."""
    bits = (values + 0.0).contiguous().view(torch.int32).flatten()  # no negative zero
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
