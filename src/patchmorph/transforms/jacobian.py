"""Jacobian determinant and folding of transforms."""

import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patchmorph.spatial.grid import Grid, VoxelBox, triple
from patchmorph.transforms.base import Transform
from patchmorph.transforms.blocks import MappedBlock, over_blocks

Differences = Literal["forward", "central"]
DIFFERENCES: tuple[Differences, ...] = get_args(Differences)
LEAST = 1e-3
"""Lower bound of determinants in logarithms: those of folds are negative."""


class Folding(NamedTuple):
    """Violations of a digital diffeomorphism (Liu et al., IJCV 2024), on the cells between voxels.

    Each cell of eight neighbouring voxels is divided into five tetrahedra in both possible ways, ten in all.
    Where none of them is inverted, the piecewise linear map is one-to-one. Cells with a point that is not
    mapped are left out.

    Attributes:
        voxels: number of cells with a tetrahedron of zero or negative volume.
        tetrahedra: number of such tetrahedra.
        volume_mm3: inverted volume, mean over both divisions.
        voxel_share: ``voxels`` as a fraction of all cells that are mapped.
        volume_share: ``volume_mm3`` as a fraction of the volume of these cells.
    """

    voxels: int
    tetrahedra: int
    volume_mm3: float
    voxel_share: float
    volume_share: float


@torch.no_grad()
def jacobian_determinant(
    transform: Transform, grid: Grid, differences: Differences = "forward"
) -> Float[Tensor, "x y z"]:
    """Determinant of dφ/dx in the world at every point of a ``grid`` of batch size one.

    A value of 2 means that a small volume of the fixed image corresponds to twice that volume of the moving
    image; a value ≤ 0 means that φ folds there. Central differences miss folds of a single voxel. NaN where a
    point that the differences need is not mapped.
    """
    result = torch.empty(grid.shape, device=grid.device)
    for box, determinant in determinant_blocks(transform, grid, differences):
        result[box.slices] = determinant
    return result


def determinant_blocks(
    transform: Transform, grid: Grid, differences: Differences = "forward"
) -> Iterator[tuple[VoxelBox, Float[Tensor, "x y z"]]]:
    """`jacobian_determinant` block by block, each block with its box in ``grid``."""
    compute = _forward_determinant if differences == "forward" else _central_determinant
    return over_blocks(lambda block: (block.box, compute(block.mapped[0], grid)), transform, grid, halo=1)


def _forward_determinant(mapped: Float[Tensor, "x2 y2 z2 3"], grid: Grid) -> Float[Tensor, "x y z"]:
    """Determinant by forward differences, without the outermost points."""
    return determinant_of_map(mapped[1:, 1:, 1:], grid)


def _central_determinant(mapped: Float[Tensor, "x2 y2 z2 3"], grid: Grid) -> Float[Tensor, "x y z"]:
    """Determinant by central differences, without the outermost points."""
    slopes = []
    for axis in range(3):
        line = mapped[tuple(slice(None) if k == axis else slice(1, -1) for k in range(3))]
        count = line.shape[axis] - 2
        slopes.append((line.narrow(axis, 2, count) - line.narrow(axis, 0, count)) / 2)
    return _volume(slopes[0], slopes[1], slopes[2]) / _cell_mm3(grid)


def log_determinant(determinant: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Natural logarithm of the determinant, which is clamped to at least `LEAST`."""
    return determinant.clamp(min=LEAST).log()


class InvertedCells(NamedTuple):
    """Sums over cells, from which `Folding` follows; those of blocks are added.

    Attributes:
        cells: number of cells that are mapped.
        voxels: number of those with a tetrahedron of zero or negative volume.
        tetrahedra: number of such tetrahedra.
        volume: inverted volume, mean over both divisions, in volumes of a cell.
    """

    cells: int = 0
    voxels: int = 0
    tetrahedra: int = 0
    volume: float = 0.0

    def plus(self, other: "InvertedCells") -> "InvertedCells":
        """The sums over the cells of both."""
        return InvertedCells(
            self.cells + other.cells,
            self.voxels + other.voxels,
            self.tetrahedra + other.tetrahedra,
            self.volume + other.volume,
        )


def folding(transform: Transform, grid: Grid, region: Bool[Tensor, "x y z"] | None = None) -> Folding:
    """Cells of ``grid`` that ``transform`` inverts, wholly or in part (see `Folding`).

    Args:
        transform: the map.
        grid: of batch size one.
        region: voxels of ``grid``; cells whose first corner lies outside are left out. By default all count.
    """
    return folding_of(cells_inverted_by(transform, first_corners(grid), region), grid)


def first_corners(grid: Grid) -> Grid:
    """The first corner of each cell of ``grid``, as a grid."""
    return grid.crop((0, 0, 0), triple(n - 1 for n in grid.shape))


@torch.no_grad()
def cells_inverted_by(
    transform: Transform, corners: Grid, region: Bool[Tensor, "..."] | None = None
) -> InvertedCells:
    """The sums over the cells with their first corner in ``corners``, or in a ``region`` of its voxels."""

    def measure(block: MappedBlock) -> InvertedCells:
        inside = None if region is None else region[block.box.slices]
        return inverted_cells(block.mapped[0, 1:, 1:, 1:], corners, inside)

    blocks = over_blocks(measure, transform, corners, halo=1)
    return functools.reduce(InvertedCells.plus, blocks, InvertedCells())


def folding_of(found: InvertedCells, grid: Grid) -> Folding:
    """The folding that follows from sums over the cells of ``grid``."""
    cells, volume_mm3 = max(found.cells, 1), found.volume * abs(float(_cell_mm3(grid)))
    return Folding(found.voxels, found.tetrahedra, volume_mm3, found.voxels / cells, found.volume / cells)


def inverted_cells(
    mapped: Float[Tensor, "x1 y1 z1 3"], grid: Grid, region: Bool[Tensor, "x y z"] | None = None
) -> InvertedCells:
    """Count inverted cells (see `Folding`) between mapped points of a grid.

    Args:
        mapped: mapped points, RAS+ mm.
        grid: grid of the points, of which only the axes and the spacing are used.
        region: first corners of the cells that count; by default all.
    """
    chosen = ... if region is None else region
    corners = {
        ends: mapped[tuple(slice(end, n - 1 + end) for end, n in zip(ends, mapped.shape, strict=False))][
            chosen
        ]
        for ends in itertools.product((0, 1), repeat=3)
    }
    ratios = _tetrahedra(corners) / float(_cell_mm3(grid))
    known = ~ratios.isnan().any(0)
    inverted = (ratios <= 0) & known
    volume = -float(ratios.where(known, 0).clamp(max=0).double().sum()) / 2
    return InvertedCells(int(known.sum()), int(inverted.any(0).sum()), int(inverted.sum()), volume)


def _tetrahedra(corners: Mapping[Any, Float[Tensor, "*n 3"]]) -> Float[Tensor, "10 *n"]:
    """Signed volumes of the ten tetrahedra of each cell; those of each division sum to the cell's volume.

    Eight tetrahedra have a corner of the cell and its three neighbours as vertices; each of the other two
    has four corners no two of which are neighbours.
    """
    volumes = []
    for ends in corners:
        x, y, z = ends
        edges = [corners[other] - corners[ends] for other in ((1 - x, y, z), (x, 1 - y, z), (x, y, 1 - z))]
        volumes.append((-1 if sum(ends) % 2 else 1) * _volume(*edges) / 6)
    for odd, sign in ((0, 1), (1, -1)):
        a, b, c, d = (corner for ends, corner in corners.items() if sum(ends) % 2 == odd)
        volumes.append(sign * _volume(b - a, c - a, d - a) / 6)
    return torch.stack(volumes)


def _volume(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Signed volume of the parallelepiped with these edges."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = (edge.unbind(-1) for edge in (a, b, c))
    return ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)


def determinant_of_map(mapped: Float[Tensor, "x1 y1 z1 3"], grid: Grid) -> Float[Tensor, "x y z"]:
    """Determinant by forward differences, from the mapped points of a grid.

    The last points along each axis have no neighbour, so the result is shorter by one along each axis.

    Args:
        mapped: mapped points, RAS+ mm.
        grid: grid of the points, of which only the axes and the spacing are used.
    """
    x, y, z = (count - 1 for count in mapped.shape[:3])
    base = mapped[:x, :y, :z]
    differences = [
        mapped[1:, :y, :z] - base,
        mapped[:x, 1:, :z] - base,
        mapped[:x, :y, 1:] - base,
    ]  # along voxel axes; division by the voxel volume converts to world axes
    return _volume(*differences) / _cell_mm3(grid)


def _cell_mm3(grid: Grid) -> Float[Tensor, ""]:
    """Signed volume of a voxel."""
    return torch.linalg.det(grid.voxel_to_world[0, :3, :3]).float()
