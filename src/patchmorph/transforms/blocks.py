"""The points of a grid under a transform, one block of the grid at a time, so that memory stays bounded."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.bsplines import spline_through
from patchmorph.spatial.grid import Grid, VoxelBox, cube, triple
from patchmorph.spatial.lattices import sample_lattice
from patchmorph.transforms.base import AffineTransform, Transform, compose
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.merging import with_merged_splines
from patchmorph.transforms.velocity import VelocityField
from patchmorph.workers import in_order

Result = TypeVar("Result")

SPACINGS_PER_STEP = 2
"""Steps in the spacing of the finest field (docs/decisions/016)."""
NODES_AROUND = 2
"""Points beyond a block: with more, the error at its faces is no smaller."""
SLAB = 16
"""Points along the first axis that `mapped_points` computes at a time on a CPU."""


class MappedBlock(NamedTuple):
    """A block of a grid and its mapped points.

    Attributes:
        box: box of the block in the grid, without halo.
        grid: grid of the block, with halo.
        mapped: points of ``grid`` under the transform, RAS+ mm, ``[1, x, y, z, 3]``.
    """

    box: VoxelBox
    grid: Grid
    mapped: Tensor

    @property
    def points(self) -> Tensor:
        """Points of ``grid``, RAS+ mm, ``[1, x, y, z, 3]``."""
        return self.grid.points_world()

    def without_halo(self, halo: int) -> "MappedBlock":
        """The block without the ``halo`` voxels that it was widened by."""
        inner = (slice(None), *(slice(halo, -halo),) * 3)
        return MappedBlock(self.box, self.grid.widened(-halo), self.mapped[inner])


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
            mapped = _mapped(local, wider)
        return compute(MappedBlock(box, wider, mapped))

    transform = with_merged_splines(transform, math.prod(grid.shape))
    return in_order(map_and_compute, _parts(transform, grid, halo), grid.device)


def mapped_blocks(transform: Transform, grid: Grid, halo: int = 0) -> Iterator[MappedBlock]:
    """Map all points of ``grid`` block by block, each block widened by ``halo`` voxels on each side."""
    return over_blocks(lambda block: block, transform, grid, halo)


def _mapped(transform: Transform, grid: Grid) -> Float[Tensor, "1 x y z 3"]:
    """The points of a block under a transform; between every few of them, where its fields are much coarser.

    Splines are smooth: the spline through points at half of their spacing is 0.002 mm off in the mean.
    """
    step = _step(transform, grid)
    if step < 2:
        return transform.at_grid(grid)
    counts = triple(math.ceil((n - 1) / step) + 1 + 2 * NODES_AROUND for n in grid.shape)
    linear = torch.diag(torch.tensor((step, step, step, 1.0), dtype=torch.float64))
    nodes = grid.crop(cube(-NODES_AROUND * step), grid.shape).framed(counts, linear[None])
    coefficients = spline_through(transform.at_grid(nodes).movedim(-1, 1))
    to_nodes = nodes.world_to_voxel @ grid.voxel_to_world
    mapped = sample_lattice(coefficients, to_nodes, (0, 1, 2), grid.shape, "border", degree=3)
    return mapped.movedim(1, -1)


def _step(transform: Transform, grid: Grid) -> int:
    """Every how many voxels of ``grid`` suffice; 1 where fields may have edges, as trilinear ones do."""
    spacings = []
    for part in transform.parts():
        if isinstance(part, VelocityField | DisplacementField) and part.degree > 1:
            spacings.append(float(part.grid.spacing_mm.min()))
        elif not isinstance(part, AffineTransform):
            return 1
    return int(min(spacings, default=0.0) / SPACINGS_PER_STEP / float(grid.spacing_mm.max()))


@torch.no_grad()
def mapped_points(transform: Transform, grid: Grid) -> Float[Tensor, "1 x y z 3"]:
    """All points of a small ``grid`` under a transform (RAS+ mm), slab by slab."""
    count = grid.shape[0]
    if grid.device.type == "cuda":  # where 216 neighbours of a point take less time than launches
        return transform.at_grid(grid)
    transform, planes = with_merged_splines(transform, math.prod(grid.shape)), SLAB
    starts = range(0, count, planes)
    slabs = (grid.crop((start, 0, 0), (min(planes, count - start), *grid.shape[1:])) for start in starts)
    return torch.cat(list(in_order(transform.at_grid, slabs, grid.device)), dim=1)


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
    corners, affine = [], AffineTransform.identity()
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
