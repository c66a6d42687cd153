"""`matching` on a CPU without gradients: matrix products and weighted sums of rows instead of many passes.

Features are read as rows of channels, and results lie in memory with channels
last, as convolutions want them.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

BLOCK = (2, 2, 4)
"""Voxels of the blocks whose features are multiplied with all features around them: larger blocks compute
more products that are not needed, smaller ones copy more."""


def block_correlation(
    fixed: Float[Tensor, "b c x y z"], moving: Float[Tensor, "b c x y z"], radius: int
) -> Float[Tensor, "b k x y z"]:
    """`patchmorph.networks.matching.local_correlation` by one matrix product a block.

    The product of a block's voxels with all voxels of the block widened by ``radius`` holds every wanted
    scalar product, at constant strides.
    """
    sides = tuple(fixed.shape[2:])
    counts = [-(-side // block) for side, block in zip(sides, BLOCK, strict=True)]
    missing = [k * block - side for k, block, side in zip(counts, BLOCK, sides, strict=True)]
    ends = [n for gap in reversed(missing) for n in (0, gap)]
    wide = [block + 2 * radius for block in BLOCK]
    rows = _blocks(functional.pad(fixed, ends) if any(missing) else fixed, list(BLOCK))
    around = _blocks(
        functional.pad(moving, [radius + n if k % 2 else radius for k, n in enumerate(ends)]), wide
    )
    products = torch.bmm(rows, around.mT)
    column = (wide[1] * wide[2], wide[2], 1)
    row = [products.shape[2] * n for n in (BLOCK[1] * BLOCK[2], BLOCK[2], 1)]
    voxel = [a + b for a, b in zip(row, column, strict=True)]  # one voxel on in both
    offsets = (2 * radius + 1,) * 3
    wanted = products.as_strided(
        (len(fixed), *counts, *BLOCK, *offsets),
        (*_strides(counts, products.stride(0)), *voxel, *column),
    )
    assembled = wanted.permute(0, 1, 4, 2, 5, 3, 6, 7, 8, 9).reshape(
        len(fixed), *(k * block for k, block in zip(counts, BLOCK, strict=True)), -1
    )
    x, y, z = sides
    return assembled[:, :x, :y, :z].movedim(-1, 1)


def row_warp(
    features: Float[Tensor, "b c x y z"], displacement: Float[Tensor, "b 3 x y z"]
) -> Float[Tensor, "b c x y z"]:
    """`patchmorph.networks.matching.warp_features`: a voxel is a weighted sum of eight rows of channels."""
    batch, channels, *sides = features.shape
    wide = torch.promote_types(features.dtype, torch.float32)
    table = features.movedim(1, -1).reshape(-1, channels).to(wide)
    row = torch.arange(batch, dtype=torch.int32).reshape(-1, 1, 1, 1)
    offset, weight = torch.zeros(1, dtype=torch.int32), torch.ones((), dtype=wide)
    for axis, count in enumerate(sides):
        column = [-1 if k == axis else 1 for k in range(3)]
        index = torch.arange(count, dtype=wide).reshape(column)
        position = (index + displacement[:, axis].to(wide)).clamp_(0, count - 1)
        lower = position.floor().clamp_(max=max(0, count - 2))
        upper_weight = position.sub_(lower)[..., None]
        row = row * count + lower.int()
        offset = torch.cat([offset * count, offset * count + min(1, count - 1)])
        both = torch.cat([1 - upper_weight, upper_weight], dim=-1)
        weight = both if axis == 0 else (both[..., :, None] * weight[..., None, :]).flatten(-2)
    rows = row.reshape(-1, 1) + offset
    warped = functional.embedding_bag(rows, table, per_sample_weights=weight.reshape(-1, 8), mode="sum")
    return warped.to(features.dtype).reshape(batch, *sides, channels).movedim(-1, 1)


def _blocks(features: Float[Tensor, "b c x y z"], sides: list[int]) -> Float[Tensor, "k v c"]:
    """The rows of channels of each block of ``sides`` voxels; blocks begin `BLOCK` voxels apart."""
    last = features.movedim(1, -1)
    for axis, (side, step) in enumerate(zip(sides, BLOCK, strict=True), start=1):
        last = last.unfold(axis, side, step)
    channels, voxels = features.shape[1], sides[0] * sides[1] * sides[2]
    return last.permute(0, 1, 2, 3, 5, 6, 7, 4).reshape(-1, voxels, channels)


def _strides(counts: list[int], unit: int) -> tuple[int, int, int, int]:
    """Strides of a contiguous batch of arrays of ``counts`` with ``unit`` elements each."""
    x, y, z = counts
    return x * y * z * unit, y * z * unit, z * unit, unit
