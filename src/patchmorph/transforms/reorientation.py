"""Vectors and symmetric tensors turned by a map, as fibre directions and diffusion tensors need.

A warped image is ``moving(φ(x))``; a direction of the moving image is carried to the fixed one by the inverse
of the Jacobian J = dφ/dx. Finite strain keeps only the rotation of it: with the polar decomposition J = R U
(R a rotation, U symmetric), a vector becomes Rᵀ v and a tensor Rᵀ D R, so lengths and eigenvalues stay
(Alexander et al., IEEE Transactions on Medical Imaging 20(11), 2001).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import Transform
from patchmorph.transforms.blocks import mapped_blocks

VECTOR, TENSOR = 3, 6
"""Numbers of components: x, y, z; and the lower triangle of a symmetric matrix, row by row."""
LOWER = torch.tril_indices(3, 3)
"""Rows and columns of a tensor's components: xx, xy, yy, xz, yz, zz (NIfTI's order)."""
NEWTON_STEPS = 12
"""Steps of Newton's iteration: it converges quadratically once a stretch has been halved to about 1."""


@torch.no_grad()
def reoriented(
    components: Float[Tensor, "1 c x y z"],
    transform: Transform,
    grid: Grid,
    axes: tuple[int, int, int] = (1, 1, 1),
) -> Float[Tensor, "1 c x y z"]:
    """Resampled vectors (3 components) or tensors (6) turned by the rotation of the map at each voxel.

    Args:
        components: values of the moving image at ``transform`` of the points of ``grid``, along world axes.
        transform: ``grid``'s world → moving world.
        grid: of the components.
        axes: signs of the axes of the components in RAS+: ``(-1, -1, 1)`` for components along LPS+.
    """
    result = torch.empty_like(components)
    signs = torch.tensor(axes, dtype=components.dtype, device=components.device)
    for block in mapped_blocks(transform, grid, halo=1):
        turn = rotation_part(_jacobian(block.mapped[0], grid)) * signs[:, None] * signs
        values = components[(0, slice(None), *block.box.slices)].movedim(0, -1)
        turned = _turned_vectors if values.shape[-1] == VECTOR else _turned_tensors
        result[(0, slice(None), *block.box.slices)] = turned(values, turn).movedim(-1, 0)
    return result


def rotation_part(matrix: Float[Tensor, "*n 3 3"]) -> Float[Tensor, "*n 3 3"]:
    """The rotation of the polar decomposition, by Newton's iteration X ← (X + X⁻ᵀ) / 2 (Higham, 1986).

    Each iterate is divided by the cube root of its determinant first, so that the size does not matter. Where
    the determinant is not above 0, the map folds and has no rotation: the identity is returned.
    """
    identity = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
    unfolded = (torch.linalg.det(matrix) > 0)[..., None, None]
    rotation = torch.where(unfolded, matrix, identity)
    for _ in range(NEWTON_STEPS):
        rows = rotation.unbind(-2)
        cofactors = torch.stack([torch.linalg.cross(rows[k - 2], rows[k - 1]) for k in range(3)], dim=-2)
        size = (rows[0] * cofactors[..., 0, :]).sum(-1)[..., None, None].pow(1 / 3)
        rotation = (rotation / size + cofactors / size.square()) / 2
    return rotation


def _jacobian(mapped: Float[Tensor, "x2 y2 z2 3"], grid: Grid) -> Float[Tensor, "x y z 3 3"]:
    """dφ/dx in the world by central differences, from mapped points with one more on each side."""
    inner = slice(1, -1)
    slopes = []
    for axis in range(3):
        line = mapped[tuple(slice(None) if k == axis else inner for k in range(3))]
        count = line.shape[axis] - 2
        slopes.append((line.narrow(axis, 2, count) - line.narrow(axis, 0, count)) / 2)
    by_voxel = torch.stack(slopes, dim=-1).double()
    return (by_voxel @ grid.world_to_voxel[0, :3, :3]).float()


def _turned_vectors(vectors: Float[Tensor, "x y z 3"], turn: Float[Tensor, "x y z 3 3"]) -> Tensor:
    return (turn.mT @ vectors[..., None])[..., 0]


def _turned_tensors(lower: Float[Tensor, "x y z 6"], turn: Float[Tensor, "x y z 3 3"]) -> Tensor:
    rows, columns = LOWER
    tensors = lower.new_empty(*lower.shape[:-1], 3, 3)
    tensors[..., rows, columns] = lower
    tensors[..., columns, rows] = lower
    return (turn.mT @ tensors @ turn)[..., rows, columns]
