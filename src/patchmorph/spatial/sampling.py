"""Values of a voxel array at any point: the only place that calls ``grid_sample``.

Points arrive in voxel indices (centres at integers) in the array's own axis order. ``grid_sample`` wants
``unit = (2 i + 1) / n − 1`` with the components reversed; that happens here and nowhere else.
"""

import functools
from typing import Literal

import torch
from jaxtyping import Float, Num
from torch import Tensor
from torch.nn import functional

Outside = Literal["zeros", "border"]
"""What lies beyond the array: nothing (images) or the nearest value inside (fields)."""

Interpolation = Literal["linear", "nearest", "label"]


def sample_linear(
    data: Float[Tensor, "#b c x y z"], points_voxel: Float[Tensor, "#b *n 3"], outside: Outside
) -> Float[Tensor, "_ c *n"]:
    """Trilinear interpolation.

    Args:
        data: values; one array may serve many batches of points, and the other way round.
        points_voxel: where, in voxel indices.
        outside: what lies beyond the array. With ``"zeros"`` values fade over the outermost half voxel.
    """
    batch = max(len(data), len(points_voxel))
    size = points_voxel.shape[1:-1]
    scale, shift = _to_unit(tuple(data.shape[2:]), data.device, points_voxel.dtype)
    unit = torch.addcmul(shift, points_voxel, scale).flip(-1)
    if len(data) > 1:
        lanes, unit = batch, unit.expand(batch, *size, 3)
    else:  # a lone array: one launch on CUDA; the CPU kernel runs one thread a batch entry, so several there
        lanes = 1 if data.is_cuda else _lanes(unit.numel() // 3)
    values = functional.grid_sample(
        data.expand(lanes, -1, -1, -1, -1),
        unit.reshape(lanes, -1, 1, 1, 3),
        mode="bilinear",
        padding_mode=outside,
        align_corners=False,
    )[..., 0, 0]
    if lanes != batch:  # [lanes, C, n] -> [batch, C, n]
        values = values.transpose(0, 1).reshape(data.shape[1], batch, -1).transpose(0, 1)
    return values.reshape(batch, data.shape[1], *size)


def sample_nearest(
    data: Num[Tensor, "1 c x y z"], points_voxel: Float[Tensor, "1 *n 3"]
) -> Num[Tensor, "1 c *n"]:
    """The nearest voxel's value in the array's own type, zero outside. Halves round up."""
    index = torch.floor(points_voxel[0] + 0.5).long()
    return _gather(data, index)[None]


def sample_label(
    data: Num[Tensor, "1 1 x y z"], points_voxel: Float[Tensor, "1 *n 3"]
) -> Num[Tensor, "1 1 *n"]:
    """The label with the most trilinear weight among eight neighbours: ids are compared, never averaged."""
    points = points_voxel.reshape(-1, 3)
    lower = torch.floor(points)
    corners = torch.cartesian_prod(*[torch.arange(2, device=data.device)] * 3)
    labels = torch.stack([_gather(data, lower.long() + corner)[0] for corner in corners])
    result = labels[0].clone()
    mixed = (labels != labels[0]).any(0)  # elsewhere there is nothing to vote on
    candidates, upper_weight = labels[:, mixed], (points - lower)[mixed]
    weights = torch.stack(
        [torch.where(corner.bool(), upper_weight, 1 - upper_weight).prod(-1) for corner in corners]
    )
    votes = torch.stack([(weights * (candidates == candidate)).sum(0) for candidate in candidates])
    result[mixed] = candidates.gather(0, votes.argmax(0, keepdim=True))[0]
    return result.reshape(1, 1, *points_voxel.shape[1:-1])


def _gather(data: Num[Tensor, "1 c x y z"], index: Tensor) -> Tensor:
    """``data`` at integer ``index`` ``[*n, 3]``, zero outside: ``[C, *n]``."""
    shape = torch.tensor(data.shape[2:], device=data.device)
    inside = ((index >= 0) & (index < shape)).all(-1)
    x, y, z = index.clamp(min=torch.zeros_like(shape), max=shape - 1).unbind(-1)
    return torch.where(inside, data[0][:, x, y, z], torch.zeros((), dtype=data.dtype, device=data.device))


def _lanes(points: int) -> int:
    return next((lanes for lanes in (16, 8, 4, 2) if points % lanes == 0), 1)


@functools.lru_cache(maxsize=4096)  # a recorded training step reads these: they must not be evicted
def _to_unit(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    size = torch.tensor(shape, dtype=dtype, device=device)
    return 2 / size, 1 / size - 1
