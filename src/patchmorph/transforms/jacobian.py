"""How a transform changes volume."""

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import Transform


@torch.no_grad()
def jacobian_determinant(transform: Transform, grid: Grid) -> Float[Tensor, "x y z"]:
    """Determinant of dφ/dx in the world at every point of one ``grid``, by forward differences.

    2 means that a small volume of the fixed image corresponds to twice that volume of the moving image;
    a value ≤ 0 means that φ folds there.
    """
    return torch.cat([_slab_determinant(transform, slab) for slab in grid.slabs()])


def _slab_determinant(transform: Transform, grid: Grid) -> Float[Tensor, "x y z"]:
    x, y, z = grid.shape
    return determinant_of_map(transform(grid.crop((0, 0, 0), (x + 1, y + 1, z + 1)).points_world())[0], grid)


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
    voxel_determinant = (differences[0] * torch.linalg.cross(differences[1], differences[2])).sum(-1)
    return voxel_determinant / torch.linalg.det(grid.voxel_to_world[0, :3, :3]).float()
