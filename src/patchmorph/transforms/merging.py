"""Several splines as one, for maps of many points: a spline takes 216 neighbours of every point."""

import math
import threading
from collections.abc import Iterator, Sequence
from itertools import groupby
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch

from patchmorph.spatial.bsplines import spline_through
from patchmorph.spatial.grid import Grid, triple
from patchmorph.spatial.lattices import along_axes
from patchmorph.transforms.base import Transform, compose
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.velocity import VelocityField

FINER = 2
"""Spacing of the finest merged field over that of the lattice that replaces them: 0.001 mm in the mean on a
human brain and 0.1 mm at most, 0.02 and 0.7 mm with 1 (docs/decisions/016)."""
LEAST = 0.5
"""Mapped points, as a fraction of those of the lattice, from which on the lattice pays."""
MOST = 2**24
"""Points of the lattice, at most: 0.2 GiB, and a few times that while it is made."""
ROUNDING = 1e-6
"""Of corners, in voxels."""

_found: WeakKeyDictionary[Transform, tuple[list[ReferenceType[Transform]], DisplacementField]]
_found = WeakKeyDictionary()
"""What runs of fields were merged to, by the last of a run, with the others."""
_lock = threading.Lock()


def with_merged_splines(transform: Transform, points: int) -> Transform:
    """``transform`` with adjacent splines as one, where that pays for as many ``points``.

    The innermost of them stays: it bends most, and is cheap along the axes (`Transform.at_grid`). The others
    become the spline through their values on a lattice `FINER` times finer than the finest of them.
    """
    runs = list(_runs(transform))
    lattices = {id(run[-1]): _lattice(run) for run in runs if len(run) > 1}
    count = sum(math.prod(lattice.shape) for lattice in lattices.values())
    if not lattices or points < LEAST * count or count > MOST:
        return transform
    with _lock:
        return compose(*(_one(run, lattices[id(run[-1])]) if len(run) > 1 else run[0] for run in runs))


def _runs(transform: Transform) -> Iterator[Sequence[Transform]]:
    """The parts, outermost first; those that become one are together."""
    for mergeable, parts in groupby(transform.parts(), _is_spline):
        run = list(parts)
        if mergeable and all(_are_parallel(part, run[-1]) for part in run):
            yield from filter(None, (run[:-1], run[-1:]))
        else:
            yield from ([part] for part in run)


def _is_spline(part: Transform) -> bool:
    """Whether ``part`` is a spline that moves no point beyond its grid, and has no variance to be lost."""
    if isinstance(part, VelocityField) and part.variance is not None:
        return False
    return (
        isinstance(part, VelocityField | DisplacementField) and part.degree > 1 and part.support() is not None
    )


def _are_parallel(part: Transform, other: Transform) -> bool:
    grid, reference = _grid(part), _grid(other)
    if len(grid.voxel_to_world) > 1 or len(reference.voxel_to_world) > 1:
        return False
    return along_axes(reference.world_to_voxel @ grid.voxel_to_world, grid.shape) is not None


def _grid(part: Transform) -> Grid:
    assert isinstance(part, VelocityField | DisplacementField)
    return part.grid


def _lattice(run: Sequence[Transform]) -> Grid:
    """The finest grid of a run, widened over the others and refined."""
    grids = [_grid(part) for part in run]
    finest = min(grids, key=lambda grid: float(grid.spacing_mm.min()))
    corners = torch.cat([finest.to_voxel(grid.corners_world())[0] for grid in grids])
    lower, upper = (corners + ROUNDING).floor().amin(0), (corners - ROUNDING).ceil().amax(0)
    shape = triple(int(count) + 1 for count in (upper - lower).tolist())
    whole = finest.crop(triple(map(int, lower.tolist())), shape)
    finer = torch.diag(torch.tensor((1 / FINER,) * 3 + (1,), dtype=torch.float64))
    return whole.framed(triple(FINER * (count - 1) + 1 for count in shape), finer[None])


def _one(run: Sequence[Transform], lattice: Grid) -> DisplacementField:
    """The composition of a run as one spline; the last one found is kept as long as the run is."""
    *others, last = run
    references, found = _found.get(last, ([], None))
    if found is None or [reference() for reference in references] != others:
        table = DisplacementField.tabulate(compose(*run), lattice)
        found = DisplacementField(spline_through(table.displacement), table.grid, degree=3)
        _found[last] = [ref(part) for part in others], found
    return found
