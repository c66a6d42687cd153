"""Intensities are matched so that agreement is grey, for one contrast and for two."""

import numpy as np
import pytest

from patchmorph.report.drawing import edges
from patchmorph.report.matching import Matching

RNG = np.random.default_rng(0)
VALUES = RNG.integers(20, 240, 20_000).astype(np.uint8)


def test_the_order_is_kept_between_images_of_one_contrast():
    darker = (255 * (VALUES / 255) ** 2).astype(np.uint8)
    matching = Matching.of(VALUES, darker)
    assert matching.monotone
    assert (np.diff(matching.table.astype(int)) >= 0).all()
    assert matching.table[0] == 0
    assert np.abs(matching(darker).astype(int) - VALUES).mean() < 2


@pytest.mark.parametrize(
    "other", [lambda v: 255 - v, lambda v: (np.abs(v.astype(int) - 130) * 2).clip(0, 255)]
)
def test_other_contrasts_take_the_mean_of_what_lies_there(other):
    seen = other(VALUES).astype(np.uint8)
    matching = Matching.of(VALUES, seen)
    assert not matching.monotone
    means = np.array([VALUES[np.abs(seen.astype(int) - level) <= 2].mean() for level in (60, 120, 180)])
    assert matching.table[[60, 120, 180]] == pytest.approx(means, abs=6)


def test_images_that_have_nothing_in_common_are_shown_in_one_shade():
    matching = Matching.of(VALUES, RNG.permutation(VALUES))
    assert np.ptp(matching.table[30:230].astype(int)) < 40


@pytest.mark.parametrize("values", [np.zeros(0, np.uint8), np.full(10, 7, np.uint8)])
def test_nothing_to_match_is_no_error(values):
    assert Matching.of(values, values).table[0] == 0


def test_edges_lie_where_a_plane_changes_and_nowhere_else():
    plane = np.zeros((40, 40), np.float32)
    plane[10:30, 15:] = 1
    found = edges(plane, plane > 0)
    rows, columns = np.nonzero(found)
    near = np.minimum(np.abs(rows - 9.5), np.abs(rows - 29.5)) < 2
    near |= (np.abs(columns - 14.5) < 2) & (rows > 7) & (rows < 32)
    assert near.all()
    assert found[20, 13:17].any()
    assert found[8:12, 30].any()
