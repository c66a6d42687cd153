"""The points of a grid under a transform, one block of the grid at a time, so that memory stays bounded."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from patchmorph.spatial.grid import Grid, VoxelBox, triple
from patchmorph.transforms.base import AffineTransform, Transform, compose
from patchmorph.workers import in_order

Result = TypeVar("Result")


class MappedBlock(NamedTuple):
    """A block of a grid and its mapped points.

    Attributes:
        box: box of the block in the grid, without halo.
        grid: grid of the block, with halo.
        points: points of ``grid``, RAS+ mm, ``[1, x, y, z, 3]``.
        mapped: ``points`` under the transform, RAS+ mm, ``[1, x, y, z, 3]``.
    """

    box: VoxelBox
    grid: Grid
    points: Tensor
    mapped: Tensor

    def without_halo(self, halo: int) -> "MappedBlock":
        """The block without the ``halo`` voxels that it was widened by."""
        inner = (slice(None), *(slice(halo, -halo),) * 3)
        return MappedBlock(self.box, self.grid.widened(-halo), self.points[inner], self.mapped[inner])


def over_blocks(
    compute: Callable[[MappedBlock], Result], transform: Transform, grid: Grid, halo: int = 0
) -> Iterator[Result]:
    """``compute`` of each block of `mapped_blocks`, in their order; several at a time on a CPU.

    Args:
        compute: a function that may run in several threads at once.
        transform: see `mapped_blocks`, as the others.
        grid: likewise.
        halo: likewise.
    """

    def map_and_compute(part: tuple[VoxelBox, Grid, Transform]) -> Result:
        box, wider, local = part
        with torch.no_grad():
            points, mapped = wider.points_world(), local.at_grid(wider)
        return compute(MappedBlock(box, wider, points, mapped))

    return in_order(map_and_compute, _parts(transform, grid, halo), grid.device)


def mapped_blocks(transform: Transform, grid: Grid, halo: int = 0) -> Iterator[MappedBlock]:
    """Map all points of ``grid`` block by block, each block widened by ``halo`` voxels on each side."""
    return over_blocks(lambda block: block, transform, grid, halo)


def _parts(transform: Transform, grid: Grid, halo: int) -> Iterator[tuple[VoxelBox, Grid, Transform]]:
    """The box of each block, its grid with halo, and what maps its points."""
    for region, local in _regions(transform, grid, halo):
        for box, block in grid.crop(region.start, region.shape).blocks():
            start = triple(a + b for a, b in zip(region.start, box.start, strict=True))
            yield VoxelBox.at(start, box.shape), block.widened(halo), local


@torch.no_grad()
def _regions(transform: Transform, grid: Grid, halo: int) -> list[tuple[VoxelBox, Transform]]:
    """Boxes that partition ``grid``, each with what ``transform`` is there: affine beyond all fields."""
    affine = compose(*(part for part in transform.parts() if isinstance(part, AffineTransform)))
    affine = affine.to(grid.device)
    box = _moved_box(transform, grid, halo)
    whole = VoxelBox((0, 0, 0), grid.shape)
    if box.is_empty:
        return [(whole, affine)]
    regions: list[tuple[VoxelBox, Transform]] = [(box, transform)]
    start, stop = list(whole.start), list(whole.stop)
    for axis in range(3):  # slabs before and after the box; the next axis is cut within the box only
        for lower, upper in ((start[axis], box.start[axis]), (box.stop[axis], stop[axis])):
            if lower < upper:
                first, last = list(start), list(stop)
                first[axis], last[axis] = lower, upper
                regions.append((VoxelBox(triple(first), triple(last)), affine))
        start[axis], stop[axis] = box.start[axis], box.stop[axis]
    return regions


def _moved_box(transform: Transform, grid: Grid, halo: int) -> VoxelBox:
    """The box of voxels of ``grid`` that a field of ``transform`` may move, widened by ``halo``.

    Points outside all fields are moved by the affine parts only, so these alone determine which points reach
    a field.
    """
    corners, affine = [], AffineTransform.identity(grid.device)
    for part in reversed(transform.parts()):
        if isinstance(part, AffineTransform):
            affine = AffineTransform(part.matrix @ affine.matrix)
            continue
        support = part.support()
        if support is None:
            return VoxelBox((0, 0, 0), grid.shape)
        corners.append(grid.to_voxel(affine.inverse()(support.widened(1).corners_world()))[0])
    if not corners:
        return VoxelBox((0, 0, 0), (0, 0, 0))
    ends = torch.cat(corners)
    start = (max(0, math.floor(value) - halo) for value in ends.amin(0).tolist())
    stop = (
        min(n, math.ceil(value) + 1 + halo)
        for value, n in zip(ends.amax(0).tolist(), grid.shape, strict=True)
    )
    return VoxelBox(triple(start), triple(stop))
