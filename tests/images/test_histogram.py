"""Order statistics of voxels that come in blocks, against sorting and by hand."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patchmorph.images.histogram import (
    DIGITS,
    OrderStatistics,
    bin_values,
    histogram_of_sorted,
    sorted_blocks,
    sorted_or_counted,
)
from patchmorph.images.normalization import voxel_statistics

float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)
few_values = st.sampled_from([-2.5, -0.0, 0.0, 1e-40, 7.0, 7.0000005, -1e30])


def in_blocks(values, cuts=()):
    ends = [0, *sorted(cut % (len(values) + 1) for cut in cuts), len(values)]
    parts = [values[a:b] for a, b in pairwise(ends)]
    return lambda: iter(parts)


@given(
    numbers=st.lists(float32, min_size=1, max_size=60) | st.lists(few_values, min_size=1, max_size=60),
    cuts=st.lists(st.integers(0, 100), max_size=4),
    place=st.integers(0, 59),
)
def test_the_kth_smallest_is_that_of_sorting(numbers, cuts, place):
    """In blocks of any size, empty ones too; −0.0 and 0.0 are equal."""
    values = torch.tensor(numbers, dtype=torch.float32)
    rank = place % len(values) + 1
    statistics = OrderStatistics(in_blocks(values, cuts))
    expected = values.sort().values[rank - 1].item()
    assert statistics.smallest(rank) == (expected, (values <= expected).sum().item())
    assert (statistics.count, statistics.not_finite) == (len(values), 0)


@pytest.mark.parametrize("rank", range(1, 7))
def test_both_zeros_are_one_value(rank):
    values = torch.tensor([0.0, -0.0, -1.0, 1.0, -0.0, 0.0])
    expected = (-1.0, 1) if rank == 1 else (1.0, 6) if rank == 6 else (0.0, 5)
    assert OrderStatistics(in_blocks(values, [3])).smallest(rank) == expected


@pytest.mark.parametrize("rank", [1, 2, 500, 999, 1000, 1001, 5000, 9999, 10000])
def test_every_rank_of_many_values_is_that_of_sorting(rank):
    """Many ties, and values whose upper halves of the bits agree."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(10000, generator=generator)
    values[::3] = values[::3].round()
    values[1::3] = 1 + values[1::3] * 1e-5
    expected = values.sort().values[rank - 1].item()
    for cuts in ((), (1, 17, 4000, 4000, 9999)):
        found = OrderStatistics(in_blocks(values, cuts)).smallest(rank)
        assert found == (expected, (values <= expected).sum().item())


def test_blocks_need_not_be_contiguous():
    values = torch.randn(6, 7, 8, generator=torch.Generator().manual_seed(0))
    blocks = lambda: iter([values[:, ::2].movedim(0, 2), values[:, 1::2]])  # noqa: E731
    statistics = OrderStatistics(blocks)
    assert statistics.count == values.numel()
    assert statistics.smallest(100) == (values.flatten().sort().values[99].item(), 100)


def test_voxels_that_are_not_finite_are_counted_once_and_have_no_rank():
    values = torch.tensor([3.0, torch.nan, 1.0, torch.inf, -torch.inf, 2.0])
    statistics = OrderStatistics(in_blocks(values, [2, 4]))
    assert [statistics.smallest(rank) for rank in (1, 2, 3)] == [(1.0, 1), (2.0, 2), (3.0, 3)]
    assert (statistics.count, statistics.not_finite) == (3, 3)
    assert int(statistics.histogram.sum()) == 3


def test_the_voxels_are_read_once_for_the_histogram_and_once_for_each_rank():
    readings = []

    def blocks():
        readings.append(len(readings))
        return iter([torch.arange(9.0)])

    statistics = OrderStatistics(blocks)
    assert [statistics.smallest(rank)[0] for rank in (2, 5, 2, 5, 2)] == [1, 4, 1, 4, 1]
    assert len(readings) == 3


@given(numbers=st.lists(float32, min_size=1, max_size=60) | st.lists(few_values, min_size=1, max_size=60))
def test_each_bin_holds_the_values_from_its_own_to_that_of_the_next(numbers):
    values = torch.tensor(numbers, dtype=torch.float32)
    histogram = OrderStatistics(in_blocks(values)).histogram
    occupied = histogram.nonzero()[:, 0]
    smallest = bin_values(occupied)
    last = occupied + 1 == DIGITS  # only NaN is beyond
    following = torch.where(last, torch.inf, bin_values((occupied + 1).clamp(max=DIGITS - 1)))
    for value, beyond, count in zip(smallest, following, histogram[occupied], strict=True):
        assert ((values >= value) & (values < beyond)).sum() == count


@pytest.mark.parametrize("value", [1.0, 100.0, 32767.0, -3024.0, 1e-3])
def test_a_bin_is_narrower_than_a_hundredth_of_its_values(value):
    place = int(OrderStatistics(in_blocks(torch.tensor([value]))).histogram.nonzero())
    low, high = bin_values(torch.tensor([place, place + 1])).tolist()
    assert low <= value < high
    assert high - low <= abs(value) / 100


def test_sorted_digits_are_counted_as_any():
    digits = torch.randint(0, DIGITS, (5000,), generator=torch.Generator().manual_seed(0)).sort().values
    digits[:2000], digits[-100:] = 0, DIGITS - 1
    assert torch.equal(histogram_of_sorted(digits), torch.bincount(digits, minlength=DIGITS))
    assert not histogram_of_sorted(digits[:0]).any()


@pytest.mark.parametrize("cuts", [(), (40, 60)])
def test_sorted_blocks_have_the_same_statistics(cuts):
    values = torch.randn(100, generator=torch.Generator().manual_seed(0))
    values[::7], values[5] = 0.0, torch.nan
    plain, ordered = in_blocks(values, cuts), sorted_blocks(in_blocks(values, cuts))
    for block in ordered():
        finite = block[block.isfinite()]
        assert torch.equal(finite, finite.sort().values)
    first, second = OrderStatistics(plain), OrderStatistics(ordered)
    assert (first.count, first.not_finite) == (second.count, second.not_finite)
    assert [first.smallest(rank) for rank in (1, 50, 99)] == [second.smallest(rank) for rank in (1, 50, 99)]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16])
def test_counted_integers_have_the_same_statistics(dtype):
    limits = torch.iinfo(dtype)
    values = torch.randint(limits.min, limits.max + 1, (500,), generator=torch.Generator().manual_seed(0))
    values = torch.cat([values, torch.tensor([limits.min, limits.max, 7, 7])]).to(dtype)
    voxels, counts = sorted_or_counted(in_blocks(values, (100, 300)), dtype, torch.device("cpu"))
    assert counts is not None, "small integers must be counted"
    found, expected = OrderStatistics(voxels, counts), OrderStatistics(in_blocks(values.float()))
    assert (found.count, found.not_finite) == (expected.count, 0)
    assert torch.equal(found.histogram, expected.histogram)
    assert all(found.smallest(rank) == expected.smallest(rank) for rank in (1, 2, 250, 503, 504))


def test_counted_voxels_without_the_background_are_not_finite():
    values = torch.tensor([3, 3, 3, 5, 9], dtype=torch.uint8)
    found = voxel_statistics(*sorted_or_counted(in_blocks(values), values.dtype, torch.device("cpu")), 3.0)
    assert (found.count, found.not_finite, found.smallest(1)) == (2, 3, (5.0, 1))


def test_floats_are_not_counted():
    values = torch.tensor([3.5, 1.0])
    voxels, counts = sorted_or_counted(in_blocks(values), values.dtype, torch.device("cpu"))
    assert counts is None
    assert OrderStatistics(voxels).smallest(2) == (3.5, 2)
