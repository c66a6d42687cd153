# pyright: reportMissingImports=false, reportIndexIssue=false
# ruff: noqa: N803 (constants of kernels are capitals)
"""Triton kernels of `matching`: features are ``[B, X, Y, Z, C]`` and contiguous, a row of channels a voxel.

Each program works on ``BLOCK`` voxels in storage order with all their channels. What neighbouring voxels read
twice comes from the cache. Sums are float32 whatever the features are.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_ELEMENTS = 2048
"""Voxels times channels (rounded up to a power of two) of one program."""


def correlate(fixed: Tensor, moving: Tensor, radius: int) -> Tensor:
    """``[B, X, Y, Z, K]``: see `patchmorph.networks.matching.local_correlation`."""
    output = fixed.new_empty(*fixed.shape[:-1], (2 * radius + 1) ** 3)
    grid, sizes, constants = _launch(fixed)
    offsets = triton.next_power_of_2(output.shape[-1])
    _correlate[grid](fixed, moving, output, *sizes, R=radius, OFFSETS=offsets, **constants)
    return output


def correlate_backward(gradient: Tensor, other: Tensor, radius: int, of_moving: bool) -> Tensor:
    """Gradient of the fixed features, where ``other`` are the moving ones, or the other way round."""
    output = torch.empty_like(other)
    grid, sizes, constants = _launch(other)
    _correlate_backward[grid](gradient, other, output, *sizes, R=radius, OF_MOVING=of_moving, **constants)
    return output


def warp(features: Tensor, displacement: Tensor) -> Tensor:
    """See `patchmorph.networks.matching.warp_features`; the displacement is float32 ``[B, X, Y, Z, 3]``."""
    output = torch.empty_like(features)
    grid, sizes, constants = _launch(features)
    _warp[grid](features, displacement, output, *sizes, **constants)
    return output


def warp_backward(gradient: Tensor, features: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the features and of the displacement. Those of the features add up in no fixed order."""
    of_features = torch.zeros(features.shape, dtype=torch.float32, device=features.device)
    of_displacement = torch.empty_like(displacement)
    grid, sizes, constants = _launch(features)
    _warp_backward[grid](gradient, features, displacement, of_features, of_displacement, *sizes, **constants)
    return of_features.to(features.dtype), of_displacement


def _launch(features: Tensor) -> tuple[tuple[int], tuple[int, ...], dict[str, int]]:
    batch, x, y, z, channels = features.shape
    row = triton.next_power_of_2(channels)
    block = max(16, BLOCK_ELEMENTS // row)
    count = batch * x * y * z
    return (triton.cdiv(count, block),), (count, x, y, z), {"C": channels, "ROW": row, "BLOCK": block}


@triton.jit
def _voxels(count, x_count, y_count, z_count, BLOCK: tl.constexpr):
    voxel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    z = voxel % z_count
    y = voxel // z_count % y_count
    x = voxel // (z_count * y_count) % x_count
    return voxel, voxel < count, x, y, z


@triton.jit
def _neighbour(voxel, real, x, y, z, x_count, y_count, z_count, k, R: tl.constexpr):
    """Index of the neighbour at offset ``k``, and whether there is one."""
    width: tl.constexpr = 2 * R + 1
    a, b, c = k // (width * width) - R, k // width % width - R, k % width - R
    inside = (x + a >= 0) & (x + a < x_count) & (y + b >= 0) & (y + b < y_count)
    inside = inside & (z + c >= 0) & (z + c < z_count)
    return voxel + (a * y_count + b) * z_count + c, real & inside


@triton.jit
def _row(pointer, voxel, real, C: tl.constexpr, ROW: tl.constexpr):
    channel = tl.arange(0, ROW)
    return pointer + voxel[:, None] * C + channel[None, :], real[:, None] & (channel < C)[None, :]


@triton.jit
def _correlate(
    fixed, moving, output, count, x_count, y_count, z_count,
    R: tl.constexpr, OFFSETS: tl.constexpr, C: tl.constexpr, ROW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    voxel, real, x, y, z = _voxels(count, x_count, y_count, z_count, BLOCK)
    place, mask = _row(fixed, voxel, real, C, ROW)
    own = tl.load(place, mask=mask, other=0.0).to(tl.float32)
    offsets: tl.constexpr = (2 * R + 1) * (2 * R + 1) * (2 * R + 1)
    column = tl.arange(0, OFFSETS)
    result = tl.zeros([BLOCK, OFFSETS], dtype=tl.float32)
    for k in range(offsets):
        there, inside = _neighbour(voxel, real, x, y, z, x_count, y_count, z_count, k, R)
        place, mask = _row(moving, there, inside, C, ROW)
        product = tl.sum(own * tl.load(place, mask=mask, other=0.0).to(tl.float32), axis=1)
        result = tl.where((column == k)[None, :], product[:, None], result)
    place, mask = _row(output, voxel, real, offsets, OFFSETS)
    tl.store(place, result, mask=mask)


@triton.jit
def _correlate_backward(
    gradient, other, output, count, x_count, y_count, z_count,
    R: tl.constexpr, OF_MOVING: tl.constexpr, C: tl.constexpr, ROW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    voxel, real, x, y, z = _voxels(count, x_count, y_count, z_count, BLOCK)
    offsets: tl.constexpr = (2 * R + 1) * (2 * R + 1) * (2 * R + 1)
    result = tl.zeros([BLOCK, ROW], dtype=tl.float32)
    for k in range(offsets):
        there, inside = _neighbour(voxel, real, x, y, z, x_count, y_count, z_count, k, R)
        # A moving voxel met the fixed one at its offset by the opposite offset.
        weighed = there * offsets + (offsets - 1 - k) if OF_MOVING else voxel * offsets + k
        weight = tl.load(gradient + weighed, mask=inside, other=0.0).to(tl.float32)
        place, mask = _row(other, there, inside, C, ROW)
        result += weight[:, None] * tl.load(place, mask=mask, other=0.0).to(tl.float32)
    place, mask = _row(output, voxel, real, C, ROW)
    tl.store(place, result, mask=mask)


@triton.jit
def _axis(displacement, voxel, real, index, count, axis: tl.constexpr):
    """Lower and upper voxel along an axis, share of the upper one, and whether the point is inside."""
    position = index + tl.load(displacement + voxel * 3 + axis, mask=real, other=0.0)
    inside = (position > 0) & (position < count - 1)
    position = tl.minimum(tl.maximum(position, 0.0), count - 1.0)
    lower = position.to(tl.int32)
    return lower, tl.minimum(lower + 1, count - 1), position - lower, inside


@triton.jit
def _warp(
    features, displacement, output, count, x_count, y_count, z_count,
    C: tl.constexpr, ROW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    voxel, real, x, y, z = _voxels(count, x_count, y_count, z_count, BLOCK)
    first = (voxel // (x_count * y_count * z_count)) * x_count
    x0, x1, fx, _ = _axis(displacement, voxel, real, x, x_count, 0)
    y0, y1, fy, _ = _axis(displacement, voxel, real, y, y_count, 1)
    z0, z1, fz, _ = _axis(displacement, voxel, real, z, z_count, 2)
    result = tl.zeros([BLOCK, ROW], dtype=tl.float32)
    for corner in tl.static_range(8):
        a, b, c = corner // 4, corner // 2 % 2, corner % 2
        weight = (fx if a else 1 - fx) * (fy if b else 1 - fy) * (fz if c else 1 - fz)
        there = ((first + (x1 if a else x0)) * y_count + (y1 if b else y0)) * z_count + (z1 if c else z0)
        place, mask = _row(features, there, real, C, ROW)
        result += weight[:, None] * tl.load(place, mask=mask, other=0.0).to(tl.float32)
    place, mask = _row(output, voxel, real, C, ROW)
    tl.store(place, result, mask=mask)


@triton.jit
def _warp_backward(
    gradient, features, displacement, of_features, of_displacement, count, x_count, y_count, z_count,
    C: tl.constexpr, ROW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    voxel, real, x, y, z = _voxels(count, x_count, y_count, z_count, BLOCK)
    first = (voxel // (x_count * y_count * z_count)) * x_count
    x0, x1, fx, in_x = _axis(displacement, voxel, real, x, x_count, 0)
    y0, y1, fy, in_y = _axis(displacement, voxel, real, y, y_count, 1)
    z0, z1, fz, in_z = _axis(displacement, voxel, real, z, z_count, 2)
    place, mask = _row(gradient, voxel, real, C, ROW)
    incoming = tl.load(place, mask=mask, other=0.0).to(tl.float32)
    slope_x = tl.zeros([BLOCK], dtype=tl.float32)
    slope_y = tl.zeros([BLOCK], dtype=tl.float32)
    slope_z = tl.zeros([BLOCK], dtype=tl.float32)
    for corner in tl.static_range(8):
        a, b, c = corner // 4, corner // 2 % 2, corner % 2
        wx, wy, wz = fx if a else 1 - fx, fy if b else 1 - fy, fz if c else 1 - fz
        there = ((first + (x1 if a else x0)) * y_count + (y1 if b else y0)) * z_count + (z1 if c else z0)
        place, mask = _row(features, there, real, C, ROW)
        product = tl.sum(incoming * tl.load(place, mask=mask, other=0.0).to(tl.float32), axis=1)
        slope_x += product * wy * wz * (1 if a else -1)
        slope_y += product * wx * wz * (1 if b else -1)
        slope_z += product * wx * wy * (1 if c else -1)
        place, mask = _row(of_features, there, real, C, ROW)
        tl.atomic_add(place, (wx * wy * wz)[:, None] * incoming, mask=mask, sem="relaxed")
    tl.store(of_displacement + voxel * 3, tl.where(in_x, slope_x, 0.0), mask=real)
    tl.store(of_displacement + voxel * 3 + 1, tl.where(in_y, slope_y, 0.0), mask=real)
    tl.store(of_displacement + voxel * 3 + 2, tl.where(in_z, slope_z, 0.0), mask=real)
