"""How a transform changes volume, and where it folds."""

import itertools
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.grid import Grid, triple
from patchmorph.transforms.base import Transform

Differences = Literal["forward", "central"]
DIFFERENCES: tuple[Differences, ...] = get_args(Differences)
LEAST = 1e-3
"""Determinants below count as this much in logarithms, which folds have none of."""


class Folding(NamedTuple):
    """Where a map is no digital diffeomorphism (Liu et al., IJCV 2024), on a grid of cells between voxels.

    Each cell of eight neighbouring voxels is cut into five tetrahedra in both possible ways: ten in all.
    Where none is turned inside out, the piecewise linear map is one to one.

    Attributes:
        voxels: cells with a tetrahedron of no or negative volume.
        tetrahedra: such tetrahedra.
        volume_mm3: what is turned inside out, the mean of both ways to cut.
        voxel_share: of all cells.
        volume_share: of the volume of all cells.
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
    """Determinant of dφ/dx in the world at every point of one ``grid``.

    2 means that a small volume of the fixed image corresponds to twice that volume of the moving image;
    a value ≤ 0 means that φ folds there. Central differences look past folds of a single voxel.
    """
    return torch.cat([_slab_determinant(transform, slab, differences) for slab in grid.slabs()])


def log_determinant(determinant: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Natural logarithm, of at least `LEAST`."""
    return determinant.clamp(min=LEAST).log()


def _slab_determinant(transform: Transform, grid: Grid, differences: Differences) -> Float[Tensor, "x y z"]:
    if differences == "forward":
        wider = grid.crop((0, 0, 0), triple(count + 1 for count in grid.shape))
        return determinant_of_map(transform(wider.points_world())[0], grid)
    wider = grid.crop((-1, -1, -1), triple(count + 2 for count in grid.shape))
    mapped = transform(wider.points_world())[0]
    inner = (slice(1, -1),) * 3
    slopes = [
        (mapped.narrow(axis, 2, mapped.shape[axis] - 2) - mapped.narrow(axis, 0, mapped.shape[axis] - 2)) / 2
        for axis in range(3)
    ]
    slopes = [
        slope[tuple(slice(None) if k == axis else inner[k] for k in range(3))]
        for axis, slope in enumerate(slopes)
    ]
    return _volume(slopes[0], slopes[1], slopes[2]) / torch.linalg.det(grid.voxel_to_world[0, :3, :3]).float()


@torch.no_grad()
def folding(transform: Transform, grid: Grid) -> Folding:
    """Cells of ``grid`` that ``transform`` turns inside out, wholly or in part (see `Folding`)."""
    cell_mm3 = float(torch.linalg.det(grid.voxel_to_world[0, :3, :3]))
    voxels = tetrahedra = cells = 0
    volume = 0.0
    for slab in grid.crop((0, 0, 0), (grid.shape[0] - 1, *grid.shape[1:])).slabs():
        wider = slab.crop((0, 0, 0), (slab.shape[0] + 1, *slab.shape[1:]))
        ratios = _tetrahedra(transform(wider.points_world())[0]) / cell_mm3
        voxels += int((ratios <= 0).any(0).sum())
        tetrahedra += int((ratios <= 0).sum())
        volume -= float(ratios.clamp(max=0).double().sum()) * abs(cell_mm3) / 2
        cells += ratios[0].numel()
    return Folding(
        voxels, tetrahedra, volume, voxels / max(cells, 1), volume / (max(cells, 1) * abs(cell_mm3))
    )


def _tetrahedra(mapped: Float[Tensor, "x1 y1 z1 3"]) -> Float[Tensor, "10 x y z"]:
    """Signed volumes of the ten tetrahedra of each cell; a whole cell has its own by each way to cut.

    Eight have a corner of the cell and its three neighbours; of the other two each has four corners that are
    no neighbours.
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
    """Signed, of the parallelepiped with these edges."""
    return (a * torch.linalg.cross(b, c)).sum(-1)


def determinant_of_map(mapped: Float[Tensor, "x1 y1 z1 3"], grid: Grid) -> Float[Tensor, "x y z"]:
    """The same from where the points of ``grid`` go: one less along each axis, as the last have no neighbour.

    Args:
        mapped: RAS+ mm.
        grid: gives the axes and the spacing only.
    """
    x, y, z = (count - 1 for count in mapped.shape[:3])
    base = mapped[:x, :y, :z]
    differences = [
        mapped[1:, :y, :z] - base,
        mapped[:x, 1:, :z] - base,
        mapped[:x, :y, 1:] - base,
    ]  # along voxel axes; the chain rule turns them to world axes
    return _volume(*differences) / torch.linalg.det(grid.voxel_to_world[0, :3, :3]).float()
