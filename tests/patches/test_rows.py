"""Rows of patches keep all of them, in the order in which they are computed."""

import itertools

import pytest
import torch

from patchmorph.patches.lattice import PatchLattice
from patchmorph.patches.rows import divided, lines, merged_rows, shortened, swept


def test_rows_are_merged_in_their_order_up_to_a_number_of_patches():
    rows = [[(k, 0, n) for n in range(count)] for k, count in enumerate((3, 2, 4, 7, 1, 1))]
    merged = list(merged_rows(rows, 5))
    assert [len(row) for row in merged] == [5, 4, 7, 2]
    assert [*itertools.chain(*merged)] == [*itertools.chain(*rows)]
    assert not list(merged_rows([], 5))


def test_long_rows_are_divided_into_parts_of_whole_lines():
    row = [(0, y, z) for y in range(5) for z in range(3)]
    assert list(divided(row, 15)) == [row]
    parts = list(divided(row, 7))
    assert [len(part) for part in parts] == [6, 6, 3]
    assert [*itertools.chain(*parts)] == row


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 1, 0)])
def test_rows_go_along_the_first_axis_and_lines_along_the_last(axes):
    box = torch.tensor([[0.0, 0, 0], [40, 60, 30]], dtype=torch.float64)
    lattice = PatchLattice.cover(box, 1.0, (16, 16, 16), 0.25)
    rows = swept(lattice.rows, axes)
    assert sorted(itertools.chain(*rows)) == sorted(lattice.starts)
    places = [{start[axes[0]] for start in row} for row in rows]
    assert all(len(place) == 1 for place in places)
    assert places == sorted(places, key=min)
    for line in lines(rows[1], axes):
        assert {len({start[axis] for start in line}) for axis in axes[:2]} == {1}
        assert len(line) == len({start[axes[2]] for start in lattice.starts})


def test_long_lines_are_sampled_in_parts_of_about_as_many_patches():
    line = [(0, 0, n) for n in range(7)]
    for most, counts in ((9, [7]), (7, [7]), (6, [3, 4]), (3, [2, 2, 3]), (1, [1] * 7)):
        parts = list(shortened(line, most))
        assert [len(part) for part in parts] == counts
        assert [*itertools.chain(*parts)] == line
    assert not list(shortened([], 3))
