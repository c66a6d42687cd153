"""Figures of merit against values worked out by hand."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patchmorph.evaluation import metrics
from patchmorph.evaluation.benchmark import ASEG, label_groups, merge_cortex
from patchmorph.evaluation.metrics import Moments


def test_dice_counts_the_overlap():
    fixed, warped = torch.tensor([1, 1, 2, 2, 0]), torch.tensor([1, 2, 2, 2, 3])
    overlap = metrics.dice(fixed, warped, [1, 2, 3, 9])
    assert overlap[1] == pytest.approx(2 / 3)
    assert overlap[2] == pytest.approx(4 / 5)
    assert overlap[3] == 0
    assert math.isnan(overlap[9])


def test_folding_counts_inside_the_mask_only():
    determinant = torch.ones(2, 2, 2)
    determinant[0] = -1
    mask = torch.zeros(2, 2, 2, dtype=torch.bool)
    mask[:, 0] = True
    assert metrics.folding_fraction(determinant, mask) == 0.5
    assert metrics.folding_fraction(determinant, mask & (determinant > 0)) == 0


def test_a_determinant_of_zero_is_a_fold():
    determinant = torch.tensor([0.0, 1e-3, -1.0, 2.0]).reshape(2, 2, 1)
    assert metrics.folding_fraction(determinant, torch.ones(2, 2, 1, dtype=torch.bool)) == 0.5


def test_sd_log_jacobian_of_constant_volume_change_is_zero():
    mask = torch.ones(3, 3, 3, dtype=torch.bool)
    assert metrics.sd_log_jacobian(torch.full((3, 3, 3), 1.7), mask) == pytest.approx(0, abs=1e-6)
    halves = torch.tensor([math.e, 1 / math.e]).repeat(4).reshape(2, 2, 2)
    assert metrics.sd_log_jacobian(halves, mask[:2, :2, :2]) == pytest.approx((8 / 7) ** 0.5)


@pytest.mark.parametrize("fold", [-3.0, 0.0, 1e-12])
def test_a_fold_counts_as_a_determinant_of_a_billionth_in_the_logarithm(fold):
    determinant = torch.tensor([fold, 1.0, 5.0]).reshape(3, 1, 1)
    mask = torch.tensor([True, True, False]).reshape(3, 1, 1)
    # Two values d apart have a standard deviation of d / √2.
    expected = math.log(1e9) / math.sqrt(2)
    assert metrics.sd_log_jacobian(determinant, mask) == pytest.approx(expected, rel=1e-5)


def test_a_lattice_shows_by_the_steps_across_its_borders():
    """By hand: steps of 0.1 along x and y, of 0.1 or 0.4 along z, across every third border."""
    x, y, z = torch.meshgrid(*[torch.arange(12.0)] * 3, indexing="ij")
    index = [(torch.arange(12) + 0.5) / 3] * 3
    everywhere = torch.ones(12, 12, 12, dtype=torch.bool)
    flat = 0.1 * (x - y + z)
    assert metrics.seam_ratio(flat, index, everywhere) == pytest.approx(1, rel=1e-4)
    jumps = flat + 0.3 * (z / 3).floor()
    assert metrics.seam_ratio(jumps, index, everywhere) == pytest.approx(
        (0.1 + 0.1 + 0.4) / 3 / 0.1, rel=1e-4
    )
    shifted = [*index[:2], index[2] + 1 / 3]
    assert metrics.seam_ratio(jumps, shifted, everywhere) < 1
    inside = everywhere & (z < 3)  # no border along z
    assert metrics.seam_ratio(jumps, index, inside) == pytest.approx(1, rel=1e-4)
    assert math.isnan(metrics.seam_ratio(jumps, index, ~everywhere))


def test_tre_is_a_distance():
    assert metrics.tre_mm(torch.tensor([[3.0, 4, 0]]), torch.zeros(1, 3)).tolist() == [5.0]
    mapped = torch.tensor([[[1.0, 2, 3], [0, 0, 0]]])
    assert metrics.tre_mm(mapped, torch.tensor([[[1.0, 4, 3], [2, 3, 6]]])).tolist() == [[2.0, 7.0]]


def test_correlation_ignores_gain_offset_and_the_outside():
    image = torch.rand(4, 5, 6)
    mask = torch.rand(4, 5, 6) > 0.3
    other = torch.where(mask, 3 * image + 1, torch.zeros(()))
    assert metrics.correlation(image, other, mask) == pytest.approx(1)
    assert metrics.correlation(image, 1 - image, mask) == pytest.approx(-1)
    assert metrics.correlation(image, torch.ones_like(image), mask) == 0


def test_correlation_has_the_value_of_its_formula():
    fixed, warped = torch.tensor([1.0, 2, 3, 9]), torch.tensor([2.0, 2, 5, -4])
    mask = torch.tensor([True, True, True, False])
    # Centred: (-1, 0, 1) and (-1, -1, 2); their product is 3, their lengths are √2 and √6.
    assert metrics.correlation(fixed, warped, mask) == pytest.approx(3 / math.sqrt(12))


def test_label_groups_follow_the_protocol():
    fixed = torch.tensor([17, 17, 1001, 1002, 2001, 1000, 0])
    warped = torch.tensor([17, 0, 1002, 1001, 2001, 1000, 0])
    groups = label_groups(fixed, warped)
    # 17: 2·1/(2+1); left cortex merged: a perfect 3; right: a perfect 42; structures in neither are left out.
    assert groups["dice_aseg"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    # 1001 and 1002 are swapped, 2001 is right, 1000 ("unknown") does not count.
    assert groups["dice_cortex"] == pytest.approx(1 / 3)
    # Every label of the fixed image counts once in the plain mean: 17, 1000, 1001, 1002, 2001.
    assert groups["dice"] == pytest.approx((2 / 3 + 1 + 0 + 0 + 1) / 5)
    assert len(ASEG) == 27


def test_the_unknown_parcel_of_neither_side_counts():
    """1000 and 2000 lie in the fixed image alone; the parcels beside them are where they should be."""
    fixed = torch.tensor([1001, 1000, 2001, 2000, 0])
    warped = torch.tensor([1001, 0, 2001, 0, 0])
    assert label_groups(fixed, warped)["dice_cortex"] == 1
    # Without a parcel that counts there is no mean over parcels.
    unknown = torch.tensor([1000, 2000, 0])
    assert label_groups(unknown, unknown) == {"dice": 1}


def test_other_labels_have_only_their_mean():
    assert label_groups(torch.tensor([1, 2, 0]), torch.tensor([1, 0, 0])) == {"dice": 0.5}
    # Ids that FreeSurfer has too, without the rest of its protocol, are no segmentation of its.
    few = torch.tensor([*ASEG[:-1], 0])
    assert label_groups(few, few) == {"dice": 1}
    whole = torch.tensor([*ASEG, 0])
    assert label_groups(whole, whole) == {"dice": 1, "dice_aseg": 1}


def test_a_structure_that_only_the_warped_image_has_counts_among_freesurfers_only():
    fixed, warped = torch.tensor([17, 1001, 2001, 0]), torch.tensor([17, 1001, 2001, 53])
    groups = label_groups(fixed, warped)
    assert groups["dice"] == 1
    assert groups["dice_aseg"] == pytest.approx(3 / 4)


def test_parcels_merge_into_the_cortex_of_their_side():
    ids = torch.tensor([0, 3, 42, 999, 1000, 1999, 2000, 2999, 3000, 17])
    assert merge_cortex(ids).tolist() == [0, 3, 42, 999, 3, 3, 42, 42, 3000, 17]


values = st.lists(st.floats(-1000, 1000, width=32), min_size=2, max_size=40)


@given(a=values, seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 40), max_size=3))
def test_moments_of_blocks_are_those_of_numpy(a, seed, cuts):
    """Blocks of any size, empty ones too; a constant side has no correlation."""
    first = torch.tensor(a)
    noise = torch.randn(len(a), generator=torch.Generator().manual_seed(seed))
    second = 0.3 * first + noise * 100
    moments = Moments()
    ends = [0, *sorted(min(cut, len(a)) for cut in cuts), len(a)]
    for start, stop in pairwise(ends):
        moments.add(first[start:stop], second[start:stop])
    assert moments.count == len(a)
    deviation = np.std(first.double().numpy(), ddof=1)
    # Sums of squares of up to 1e6 in float64.
    assert moments.deviation() == pytest.approx(deviation, rel=1e-6, abs=1e-4)
    if deviation > 1e-2:
        expected = np.corrcoef(first.double().numpy(), second.double().numpy())[0, 1]
        assert moments.correlation() == pytest.approx(expected, abs=1e-6)


def test_moments_of_many_values_far_from_zero_lose_nothing():
    """A million voxels about 1000 with a spread of 1: float32 sums would leave no digit."""
    generator = torch.Generator().manual_seed(0)
    first = 1000 + torch.randn(100, 100, 100, generator=generator)
    second = 0.5 * first + torch.randn(100, 100, 100, generator=generator)
    moments = Moments()
    for start in range(0, 100, 7):
        moments.add(first[start : start + 7], second[start : start + 7])
    a, b = first.double().flatten().numpy(), second.double().flatten().numpy()
    assert moments.correlation() == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-7)
    assert moments.deviation() == pytest.approx(np.std(a, ddof=1), rel=1e-7)


def test_moments_of_nothing_and_of_constants():
    assert Moments().correlation() == 0
    assert math.isnan(Moments().deviation())
    one = Moments()
    one.add(torch.tensor([3.0]), torch.tensor([4.0]))
    assert math.isnan(one.deviation())
    constant = Moments()
    constant.add(torch.full((5,), 0.1), torch.arange(5.0))
    assert constant.correlation() == 0
    assert constant.deviation() == pytest.approx(0, abs=1e-8)
    other = Moments()
    other.add(torch.arange(5.0), torch.full((5,), 0.1))
    assert other.correlation() == 0
    assert other.deviation() == pytest.approx(math.sqrt(2.5))
