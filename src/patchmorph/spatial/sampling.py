"""Interpolation of voxel arrays: the only module that calls ``grid_sample``.

Points are voxel indices (centres at integers) in the array's axis order, or come with the matrix that maps
them to voxel indices. ``grid_sample`` expects ``unit = (2 i + 1) / n − 1`` with the components reversed; this
conversion happens only here.
"""

import functools
import math
from typing import Literal, get_args

import torch
from jaxtyping import Float, Num
from torch import Tensor
from torch.nn import functional

from patchmorph.spatial.affine import apply_affine
from patchmorph.spatial.bsplines import sample_spline

Outside = Literal["zeros", "border"]
"""Values beyond the array: zero (images) or the nearest value inside (fields)."""


CPU_CHUNKS = 16
"""Chunks of the points of a single array on a CPU, whose kernel runs one thread per batch entry."""

Interpolation = Literal["linear", "cubic", "nearest", "label"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)


def sample_linear(
    data: Float[Tensor, "#b c x y z"],
    points: Float[Tensor, "#b *n 3"],
    outside: Outside,
    to_voxel: Float[Tensor, "#b 4 4"] | None = None,
) -> Float[Tensor, "_ c *n"]:
    """Trilinear interpolation.

    Args:
        data: values; a batch of one array serves any batch of points, and vice versa.
        points: voxel indices, or points that ``to_voxel`` maps to voxel indices.
        outside: values beyond the array. With ``"zeros"`` values fade from the outermost voxel centres to
            zero one voxel beyond them.
        to_voxel: float64; combined with the conversion to ``grid_sample``'s units, so that points are mapped
            only once.
    """
    to_unit = _voxel_to_unit(tuple(data.shape[2:]), data.device if to_voxel is None else to_voxel.device)
    unit = apply_affine(to_unit if to_voxel is None else to_unit @ to_voxel, points)
    batch, size = max(len(data), len(unit)), points.shape[1:-1]
    if len(data) > 1:
        chunks, unit = batch, unit.expand(batch, *size, 3)
    else:  # a single array: one launch on CUDA, several chunks on a CPU (one thread per batch entry)
        chunks, unit = 1 if data.is_cuda else CPU_CHUNKS, unit.reshape(-1, 3)
        if len(unit) % chunks:
            unit = functional.pad(unit, (0, 0, 0, -len(unit) % chunks))
    values = functional.grid_sample(
        data.expand(chunks, -1, -1, -1, -1),
        unit.reshape(chunks, -1, 1, 1, 3),
        mode="bilinear",
        padding_mode=outside,
        align_corners=False,
    )
    if len(data) > 1:
        return values.reshape(batch, data.shape[1], *size)
    values = values.transpose(0, 1).reshape(data.shape[1], -1)[:, : batch * math.prod(size)]
    return values.reshape(data.shape[1], batch, *size).transpose(0, 1)


def sample_nearest(
    data: Num[Tensor, "1 c x y z"], points_voxel: Float[Tensor, "1 *n 3"], background: int | float = 0
) -> Num[Tensor, "1 c *n"]:
    """Value of the nearest voxel, in the dtype of ``data``; ``background`` outside. Halves round up."""
    index = torch.floor(points_voxel[0] + 0.5).long()
    return _gather(data, index, background)[None]


def sample_cubic(
    coefficients: Float[Tensor, "1 c x y z"],
    points_voxel: Float[Tensor, "1 *n 3"],
    background: int | float = 0,
) -> Float[Tensor, "1 c *n"]:
    """Cubic B-spline interpolation from `bsplines.spline_coefficients`.

    Between the outermost voxel centres and the faces values are those at the centres; beyond, ``background``.
    """
    shape = torch.tensor(coefficients.shape[2:], device=points_voxel.device)
    inside = ((points_voxel >= -0.5) & (points_voxel < shape - 0.5)).all(-1)[:, None]
    return torch.where(inside, sample_spline(coefficients, points_voxel), background)


def sample_label(
    data: Num[Tensor, "1 1 x y z"], points_voxel: Float[Tensor, "1 *n 3"], background: int | float = 0
) -> Num[Tensor, "1 1 *n"]:
    """The label with the largest trilinear weight among the eight neighbours; labels are never averaged."""
    points = points_voxel.reshape(-1, 3)
    lower = torch.floor(points)
    corners = torch.cartesian_prod(*[torch.arange(2, device=data.device)] * 3)
    labels = torch.stack([_gather(data, lower.long() + corner, background)[0] for corner in corners])
    result = labels[0].clone()
    mixed = (labels != labels[0]).any(0)  # elsewhere all neighbours agree
    candidates, upper_weight = labels[:, mixed], (points - lower)[mixed]
    weights = torch.stack(
        [torch.where(corner.bool(), upper_weight, 1 - upper_weight).prod(-1) for corner in corners]
    )
    votes = torch.stack([(weights * (candidates == candidate)).sum(0) for candidate in candidates])
    result[mixed] = candidates.gather(0, votes.argmax(0, keepdim=True))[0]
    return result.reshape(1, 1, *points_voxel.shape[1:-1])


def _gather(data: Num[Tensor, "1 c x y z"], index: Tensor, background: int | float) -> Tensor:
    """``data`` at integer ``index`` ``[*n, 3]``, ``background`` outside: ``[C, *n]``."""
    shape = torch.tensor(data.shape[2:], device=data.device)
    inside = ((index >= 0) & (index < shape)).all(-1)
    x, y, z = index.clamp(min=torch.zeros_like(shape), max=shape - 1).unbind(-1)
    return torch.where(
        inside, data[0][:, x, y, z], torch.tensor(background, dtype=data.dtype, device=data.device)
    )


@functools.lru_cache(maxsize=4096)  # captured CUDA graphs read these: never evicted
def _voxel_to_unit(shape: tuple[int, ...], device: torch.device) -> Float[Tensor, "1 4 4"]:
    """``unit = (2 i + 1) / n − 1`` with the components reversed, as a matrix."""
    matrix = torch.zeros(1, 4, 4, dtype=torch.float64)
    for axis, count in enumerate(shape):
        matrix[0, 2 - axis, axis] = 2 / count
        matrix[0, 2 - axis, 3] = 1 / count - 1
    matrix[0, 3, 3] = 1
    return matrix.to(device)
