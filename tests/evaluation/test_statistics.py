"""Intervals and tests agree with SciPy and with all choices of signs, and say where they are undefined."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from patchmorph.evaluation.statistics import Bootstrap, holm, signed_rank_test


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@given(st.lists(st.floats(-1, 1).filter(lambda x: abs(x) > 1e-6), min_size=6, max_size=25, unique_by=abs))
def test_the_signed_rank_test_is_that_of_scipy_without_ties(differences):
    assert signed_rank_test(differences).p == pytest.approx(
        stats.wilcoxon(differences, method="exact").pvalue, rel=1e-9
    )


@given(st.lists(st.sampled_from([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0]), min_size=6, max_size=9))
def test_with_ties_it_is_the_share_of_all_choices_of_signs(differences):
    found = [one for one in differences if one]
    result = signed_rank_test(differences)
    if len(found) < 6:
        assert math.isnan(result.p)
        assert result.note
        return
    ranks = stats.rankdata(np.abs(found))
    observed = abs((ranks * np.sign(found)).sum())
    sums = [abs((ranks * signs).sum()) for signs in itertools.product((-1, 1), repeat=len(found))]
    assert result.p == pytest.approx(np.mean([one >= observed - 1e-9 for one in sums]))


def test_many_pairs_are_tested_with_a_normal_distribution():
    differences = np.random.default_rng(0).normal(0.1, 1, 300).tolist()
    expected = stats.wilcoxon(differences, method="approx", correction=False).pvalue
    assert 0.001 < expected < 0.9
    assert signed_rank_test(differences).p == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("differences", "note"),
    [
        ([], "no pair differs"),
        ([0.0] * 20, "no pair differs"),
        ([1.0] * 5 + [0.0] * 9, "a test needs 6 pairs that differ, got 5"),
    ],
)
def test_a_test_that_is_undefined_says_why(differences, note):
    result = signed_rank_test(differences)
    assert math.isnan(result.p)
    assert result.note == note


def test_the_interval_of_a_mean_is_that_of_scipy():
    values = np.random.default_rng(1).gamma(2, 1, 20)
    found = Bootstrap(generator()).interval(values.tolist())
    expected = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert found.low == pytest.approx(expected.low, abs=0.02)
    assert found.high == pytest.approx(expected.high, abs=0.02)
    assert found == Bootstrap(generator()).interval(values.tolist())  # the same seed, the same interval
    wide, narrow = (Bootstrap(generator(), level).interval(values.tolist()) for level in (0.99, 0.5))
    assert wide.low < found.low < narrow.low < narrow.high < found.high < wide.high


@pytest.mark.parametrize(
    ("values", "note"),
    [([], "needs 2 pairs, got 0"), ([0.5], "needs 2 pairs, got 1"), ([0.5] * 9, "are equal")],
)
def test_an_interval_that_is_undefined_says_why(values, note):
    found = Bootstrap(generator()).interval(values)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert note in found.note


def test_holm_corrects_step_by_step():
    """By hand: 3 × 0.01, 2 × 0.02, and no less than the one before."""
    assert holm([0.02, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_what_is_undefined_does_not_count_in_holms_correction():
    found = holm([0.01, math.nan, 0.04])
    assert found[0] == pytest.approx(0.02)
    assert math.isnan(found[1])
    assert found[2] == pytest.approx(0.04)
