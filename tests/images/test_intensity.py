"""Order statistics, the window of normalization and intensity maps, against whole arrays and by hand."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic import grid_around

from patchmorph.errors import PatchMorphError
from patchmorph.images.histogram import OrderStatistics
from patchmorph.images.intensity import Curve, Masked, Window
from patchmorph.images.normalization import normalizing_window
from patchmorph.images.volume import FACES, Image

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


def expected_window(data):
    """First percentile, 99.8th percentile of what is above, inverted on bright faces: on the whole array."""
    values = data.double().flatten().sort().values
    low = values[max(1, round(0.01 * len(values))) - 1]
    above = values[values > low]
    high = above[len(above) - max(1, round(0.002 * len(above)))]
    faces = torch.cat([data.double().select(axis, end).flatten() for axis in range(3) for end in (0, -1)])
    inverted = (faces.clamp(low, high) - low).median() / (high - low) > 0.5
    return low.item(), high.item(), bool(inverted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16, torch.uint8])
@pytest.mark.parametrize("faces", ["dark", "bright", "dark but for two"])
@pytest.mark.parametrize("shape", [(12, 13, 14), (3, 5, 70), (70, 20, 9)])
def test_the_window_is_the_formula_on_the_whole_array(dtype, faces, shape):
    generator = torch.Generator().manual_seed(sum(shape))
    data = torch.rand(shape, generator=generator) * 120 + 100
    for axis, side in FACES:
        bright = faces == "bright" or (faces != "dark" and axis == 0)
        noise = torch.rand(data.select(axis, -side).shape, generator=generator) * 10
        data.select(axis, -side)[:] = noise + (240 if bright else 3)
    if dtype != torch.uint8:
        data = data * 30 - 2000  # negative values
    data = data.to(dtype)
    low, high, inverted = expected_window(data)
    image = Image(data[None, None], grid_around(shape, torch.eye(3).numpy()))
    window = image.normalized().intensity_maps[0]
    assert (window.low, window.high, window.inverted) == (low, high, inverted)
    assert inverted is (faces == "bright")
    scaled = ((data.double() - low) / (high - low)).clamp(0, 1)
    expected = 1 - scaled if inverted else scaled
    torch.testing.assert_close(image.normalized().values()[0, 0].double(), expected, atol=1e-6, rtol=0)


def test_the_window_of_few_voxels_is_of_single_ones():
    """By hand: of 25 voxels, the least is mapped to 0 and the largest to 1."""
    values = torch.arange(25.0).reshape(1, 1, 5, 5, 1)
    faces = [torch.zeros(4)] * 6
    assert normalizing_window(OrderStatistics(lambda: iter([values])), faces, "x") == Window(
        0.0, 24.0, inverted=False
    )
    bright = [torch.zeros(4), *[torch.full((4,), 12.5)] * 5]
    assert normalizing_window(OrderStatistics(lambda: iter([values])), bright, "x").inverted
    barely = [torch.zeros(4), *[torch.full((4,), 12.0)] * 5]  # half way is not bright
    assert not normalizing_window(OrderStatistics(lambda: iter([values])), barely, "x").inverted


def test_the_upper_end_of_the_window_is_a_percentile_of_what_is_above_the_lower_end():
    """By hand: 9000 voxels of background and 1 … 1000, of which two are 0.2 percent."""
    values = torch.cat([torch.full((9000,), -7.0), torch.arange(1.0, 1001)])
    window = normalizing_window(
        OrderStatistics(in_blocks(values, [4321, 9500])), [torch.full((4,), -7.0)] * 6, "x"
    )
    assert window == Window(-7.0, 999.0, inverted=False)


def test_what_is_not_finite_is_counted_in_all_blocks():
    first, second = torch.zeros(10), torch.ones(10)
    first[3], second[:2] = torch.nan, torch.tensor([torch.inf, -torch.inf])
    with pytest.raises(PatchMorphError, match=r"must be finite everywhere, got 3 NaN .* in sub-02\.nii"):
        normalizing_window(OrderStatistics(lambda: iter([first, second])), [torch.zeros(2)] * 6, "sub-02.nii")
    with pytest.raises(PatchMorphError, match=r"must have content, got 4\.5 in every voxel of sub-02\.nii"):
        normalizing_window(
            OrderStatistics(lambda: iter([torch.full((9,), 4.5)] * 2)), [torch.zeros(2)] * 6, "sub-02.nii"
        )


def test_a_window_clamps_and_inverts():
    values = torch.tensor([-5.0, 10, 15, 20, 30]).reshape(1, 1, 5, 1, 1)
    grid = grid_around((5, 1, 1), torch.eye(3).numpy())
    expected = torch.tensor([0.0, 0, 0.5, 1, 1])
    assert torch.equal(Window(10.0, 20.0)(values, grid).flatten(), expected)
    assert torch.equal(Window(10.0, 20.0, inverted=True)(values, grid).flatten(), 1 - expected)
    assert values.flatten()[0] == -5  # the voxels themselves are left alone


def test_a_curve_runs_through_its_knots():
    """By hand: three knots at 0, 1/2 and 1; linear in between, clamped beyond, zero up to the background."""
    values = torch.tensor([-0.3, 0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.4]).reshape(1, 1, 8, 1, 1)
    grid = grid_around((8, 1, 1), torch.eye(3).numpy())
    found = Curve(torch.tensor([0.8, 0.2, 0.6]), 0.1)(values, grid).flatten()
    torch.testing.assert_close(found, torch.tensor([0.0, 0, 0, 0.5, 0.2, 0.4, 0.6, 0.6]))
    lower = Curve(torch.tensor([0.8, 0.2, 0.6]), -1.0)(values, grid).flatten()
    torch.testing.assert_close(lower[:3], torch.tensor([0.8, 0.8, 0.68]))


def test_a_mask_map_is_strict_at_its_threshold():
    grid = grid_around((5, 1, 1), torch.eye(3).numpy())
    mask = Image(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).reshape(1, 1, 5, 1, 1), grid)
    found = Masked(mask, 0.5, 1.0)(torch.full((1, 1, 5, 1, 1), 3.0), grid).flatten()
    assert found.tolist() == [0, 0, 0, 3, 3]
