"""Trilinear interpolation at the points of a whole lattice whose axes run along those of the array.

One axis is interpolated after the other, by small matrices: a tenth of the time that `sample_linear`
takes for the same points.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.grid import Shape
from patchmorph.spatial.sampling import Outside

MAX_TILT_VOXELS = 1e-4
"""How far lattice points may lie from the line along an axis of the array, in its voxels."""


def along_axes(to_voxel: Float[Tensor, "1 4 4"], shape: Shape) -> tuple[int, int, int] | None:
    """The lattice axis that each array axis runs along; ``None`` if the axes are oblique to each other.

    Args:
        to_voxel: lattice indices to voxel indices of the array, float64.
        shape: points of the lattice along each axis.
    """
    steps = to_voxel[0, :3, :3].abs().cpu() * torch.tensor(shape)  # voxels from end to end
    lead = steps.argmax(1).tolist()
    others = steps.clone()
    for axis, own in enumerate(lead):
        others[axis, own] = 0
    if len(set(lead)) < 3 or float(others.max()) > MAX_TILT_VOXELS:
        return None
    return lead[0], lead[1], lead[2]


def sample_lattice(
    data: Float[Tensor, "1 c x y z"],
    to_voxel: Float[Tensor, "1 4 4"],
    axes: tuple[int, int, int],
    shape: Shape,
    outside: Outside,
) -> Float[Tensor, "1 c u v w"]:
    """The values that `sample_linear` has at the points of a lattice.

    Args:
        data: finite values.
        to_voxel: lattice indices to voxel indices of ``data``, float64.
        axes: see `along_axes`.
        shape: points of the lattice along each axis.
        outside: values beyond the array, as in `sample_linear`.
    """
    matrix, weights = to_voxel[0].cpu(), []
    for axis, own in enumerate(axes):
        voxel = matrix[axis, own] * torch.arange(shape[own]) + matrix[axis, 3]
        first, rows = _weights(voxel, data.shape[2 + axis], outside)
        data = data.narrow(2 + axis, first, rows.shape[1])
        weights.append(rows.to(data))
    along = torch.einsum("bcxyz,ux,vy,wz->bcuvw", data, *weights)
    return along.permute(0, 1, *(2 + axes.index(k) for k in range(3)))


def _weights(voxel: Float[Tensor, " m"], count: int, outside: Outside) -> tuple[int, Float[Tensor, "m n"]]:
    """The first of the voxels that are needed, and the weight of each at each point of one axis."""
    if outside == "border":
        voxel = voxel.clamp(0, count - 1)
    lower = voxel.floor()
    part, index = voxel - lower, lower.long()
    first = min(max(int(index.min()), 0), count - 1)
    last = min(max(int(index.max()) + 1, first), count - 1)
    weights = torch.zeros(len(voxel), last - first + 1, dtype=torch.float64)
    for neighbour, weight in ((index, 1 - part), (index + 1, part)):
        there = (neighbour >= first) & (neighbour <= last)
        rows = torch.arange(len(voxel))[there]
        weights[rows, neighbour[there] - first] += weight[there]
    return first, weights
