"""The order in which patches are computed: rows of lines, in each of which images are sampled at once."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from patchmorph.spatial.grid import Shape, VoxelIndex

Row = Sequence[VoxelIndex]
"""First velocity voxel of each of its patches."""

LATTICE_ORDER = (0, 1, 2)
"""Axes of a lattice: rows share their position along the first, lines along the second too."""


def swept(rows: Sequence[Row], axes: Shape) -> Sequence[Row]:
    """The patches of a lattice without jitter, in rows that share their position along ``axes[0]``."""
    if axes == LATTICE_ORDER:
        return rows
    starts = sorted(itertools.chain(*rows), key=itemgetter(*axes))
    return [list(row) for _, row in groupby(starts, itemgetter(axes[0]))]


def lines(row: Row, axes: Shape = LATTICE_ORDER) -> list[list[VoxelIndex]]:
    """The patches of a row that also share their position along the second axis, one line after the other."""
    return [list(along) for _, along in groupby(row, itemgetter(*axes[:2]))]


def divided(row: Row, most: int, axes: Shape = LATTICE_ORDER) -> Iterable[Row]:
    """A row of at most ``most`` patches as it is, a longer one in parts of several lines."""
    return [row] if len(row) <= most else merged_rows(lines(row, axes), most)


def shortened(line: Row, most: int) -> Iterator[Row]:
    """A line in parts of as many patches each as far as possible, at most ``most``."""
    count = -(-len(line) // most)
    for k in range(count):
        yield line[k * len(line) // count : (k + 1) * len(line) // count]


def merged_rows(rows: Iterable[Row], most: int) -> Iterator[Row]:
    """Consecutive rows as one, of at most ``most`` patches unless a single row has more."""
    merged: list[VoxelIndex] = []
    for row in rows:
        if merged and len(merged) + len(row) > most:
            yield merged
            merged = []
        merged += row
    if merged:
        yield merged
