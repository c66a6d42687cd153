"""Jacobian determinant and folding of transforms."""

import itertools
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

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


@torch.no_grad()
def folding(transform: Transform, grid: Grid, region: Bool[Tensor, "x y z"] | None = None) -> Folding:
    """Cells of ``grid`` that ``transform`` inverts, wholly or in part (see `Folding`).

    Args:
        transform: the map.
        grid: of batch size one.
        region: voxels of ``grid``; cells whose first corner lies outside are left out. By default all count.
    """
    cell_mm3 = float(_cell_mm3(grid))

    def measure(block: MappedBlock) -> tuple[int, int, float, int]:
        ratios = _tetrahedra(block.mapped[0, 1:, 1:, 1:]) / cell_mm3
        mapped = ~ratios.isnan().any(0)
        if region is not None:
            mapped &= region[block.box.slices]
        ratios = ratios[:, mapped]
        inverted = ratios <= 0
        volume = -float(ratios.clamp(max=0).double().sum()) * abs(cell_mm3) / 2
        return int(inverted.any(0).sum()), int(inverted.sum()), volume, int(mapped.sum())

    cells_only = grid.crop((0, 0, 0), triple(n - 1 for n in grid.shape))
    voxels, tetrahedra, volume, cells = 0, 0, 0.0, 0
    for counts in over_blocks(measure, transform, cells_only, halo=1):
        voxels, tetrahedra = voxels + counts[0], tetrahedra + counts[1]
        volume, cells = volume + counts[2], cells + counts[3]
    return Folding(
        voxels, tetrahedra, volume, voxels / max(cells, 1), volume / (max(cells, 1) * abs(cell_mm3))
    )


def _tetrahedra(mapped: Float[Tensor, "x1 y1 z1 3"]) -> Float[Tensor, "10 x y z"]:
    """Signed volumes of the ten tetrahedra of each cell; those of each division sum to the cell's volume.

    Eight tetrahedra have a corner of the cell and its three neighbours as vertices; each of the other two
    has four corners no two of which are neighbours.
    """

    def corner(x: int, y: int, z: int) -> Tensor:
        return mapped[x : mapped.shape[0] - 1 + x, y : mapped.shape[1] - 1 + y, z : mapped.shape[2] - 1 + z]

    volumes = []
    for x, y, z in itertools.product((0, 1), repeat=3):
        here = corner(x, y, z)
        edges = [corner(1 - x, y, z) - here, corner(x, 1 - y, z) - here, corner(x, y, 1 - z) - here]
        sign = -1 if (x + y + z) % 2 else 1
        volumes.append(sign * _volume(*edges) / 6)
    for odd, sign in ((0, 1), (1, -1)):
        a, b, c, d = (corner(*ends) for ends in itertools.product((0, 1), repeat=3) if sum(ends) % 2 == odd)
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
