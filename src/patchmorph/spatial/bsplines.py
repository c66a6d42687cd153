"""Cubic B-splines: smooth fields from coarse arrays, and images between voxels.

A spline is ``f(x) = Σ c[k] β(x − k)`` with the cubic B-spline β over four voxels; two of its derivatives are
continuous. `spline_coefficients` returns the c with which f interpolates given values. Arrays are mirrored
at the centres of their outermost voxels, as in SciPy (``mode="mirror"``) and ITK (Unser, IEEE Signal
Processing Magazine 16(6), 1999; for fields: Rueckert et al., IEEE Trans. Medical Imaging 18(8), 1999).
"""

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor
from torch.nn import functional

from patchmorph.spatial.affine import apply_affine

POLE = 3**0.5 - 2
"""Pole of the recursive filter."""
GAIN = (1 - POLE) * (1 - 1 / POLE)
TAPS = 4
"""Voxels along each axis that a point depends on."""
POINTS = 2**16
"""Points that are computed at a time, so that memory stays bounded."""


@torch.no_grad()
def spline_coefficients(values: Num[Tensor, "b c x y z"]) -> Float[Tensor, "b c x y z"]:
    """Coefficients of the cubic spline that interpolates ``values``: filtered in float64, without a gradient.

    Along each axis a causal and an anticausal recursive filter (Unser, 1999); the spline is constant along an
    axis of one voxel.
    """
    filtered = values.double()
    for axis in (2, 3, 4):
        if values.shape[axis] > 1:
            filtered = _filtered(filtered.movedim(axis, 0)).movedim(0, axis)
    return filtered.float().contiguous()


def _filtered(values: Float[Tensor, "n *rest"]) -> Float[Tensor, "n *rest"]:
    """The coefficients along the first axis."""
    last = len(values) - 1
    line = torch.mul(values, GAIN).contiguous()
    index = torch.arange(last + 1, dtype=torch.float64, device=line.device)
    mirrored = torch.where((index > 0) & (index < last), POLE ** (2 * last - index), 0.0)
    line[0] = torch.tensordot((POLE**index + mirrored).to(line), line, dims=1) / (1 - POLE ** (2 * last))
    for k in range(1, last + 1):
        line[k].add_(line[k - 1], alpha=POLE)
    line[last].add_(line[last - 1], alpha=POLE).mul_(POLE / (POLE**2 - 1))
    for k in range(last - 1, -1, -1):
        line[k].neg_().add_(line[k + 1]).mul_(POLE)
    return line


def sample_spline(
    coefficients: Float[Tensor, "#b c x y z"],
    points: Float[Tensor, "#b *n 3"],
    to_voxel: Float[Tensor, "#b 4 4"] | None = None,
) -> Float[Tensor, "_ c *n"]:
    """The spline of ``coefficients`` at points; beyond the outermost voxel centres it keeps its border value.

    Args:
        coefficients: a batch of one array serves any batch of points, and vice versa.
        points: voxel indices, or points that ``to_voxel`` (float64) maps to voxel indices. NaN stays NaN.
    """
    voxel = points if to_voxel is None else apply_affine(to_voxel, points)
    batch, size = max(len(coefficients), len(voxel)), voxel.shape[1:-1]
    flat = voxel.reshape(len(voxel), -1, 3)
    if len(coefficients) == 1:
        values = _sampled(coefficients[0], flat.reshape(-1, 3))
        values = values.reshape(coefficients.shape[1], batch, *size).transpose(0, 1)
    else:
        pairs = zip(coefficients, flat.expand(batch, -1, 3), strict=True)
        values = torch.stack([_sampled(*pair) for pair in pairs])
    return values.reshape(batch, coefficients.shape[1], *size)


def _sampled(coefficients: Float[Tensor, "c x y z"], voxel: Float[Tensor, "n 3"]) -> Float[Tensor, "c n"]:
    """The spline at voxel indices: a weighted sum of 16 rows of the table of a part of the array."""
    channels, counts = len(coefficients), torch.tensor(coefficients.shape[1:], device=voxel.device)
    values = voxel.new_empty(channels, len(voxel))
    for first in range(0, len(voxel), POINTS):
        inside = voxel[first : first + POINTS].clamp(torch.zeros_like(counts), counts - 1)
        lower = inside.floor()
        weights = bspline_weights(inside - lower)
        lower = lower.nan_to_num(0).long()
        start = lower.amin(0)
        table, shape = _table(coefficients, start.tolist(), (lower.amax(0) + TAPS).tolist())
        i, j, k = (lower - start).unbind(-1)
        x, y = (torch.arange(TAPS, device=voxel.device) * n for n in (shape[1] * shape[2], shape[2]))
        rows = ((i * shape[1] + j) * shape[2] + k)[:, None] + (x[:, None] + y).reshape(-1)
        across = (weights[:, None, :, 0] * weights[None, :, :, 1]).reshape(TAPS**2, -1).T.contiguous()
        sums = functional.embedding_bag(rows, table, mode="sum", per_sample_weights=across)
        sums = sums.reshape(-1, TAPS, channels) * weights[..., 2].T[..., None]
        values[:, first : first + POINTS] = sums.sum(1).T
    return values


def _table(
    coefficients: Float[Tensor, "c x y z"], start: list[int], stop: list[int]
) -> tuple[Float[Tensor, "n m"], list[int]]:
    """Each voxel of a box and the three beyond it along z as a row of numbers; shape of the box.

    The box begins one voxel before ``start``, and the array is mirrored where the box extends beyond it.
    """
    box = coefficients
    for axis, (first, last) in enumerate(zip(start, stop, strict=True), 1):
        index = torch.arange(first - 1, last - 1, device=box.device)
        box = box.index_select(axis, mirrored(index, box.shape[axis]))
    channels, shape = len(box), list(box.shape[1:])
    flat = box.movedim(0, -1).reshape(-1)
    rows = (flat.numel() // channels - TAPS + 1, TAPS * channels)
    return torch.as_strided(flat, rows, (channels, 1)).contiguous(), shape


def mirrored(index: Int[Tensor, "*n"], count: int) -> Int[Tensor, "*n"]:
    """The voxels of an axis of ``count`` that indices mean which may lie up to its length beyond it."""
    last = count - 1
    return (last - (last - index.abs()).abs()).clamp(min=0)


def bspline_weights(part: Float[Tensor, "*n"]) -> Float[Tensor, "4 *n"]:
    """β at the four voxels around points that lie ``part`` of a voxel beyond the second of them."""
    rest = 1 - part
    return torch.stack(
        [
            rest.pow(3) / 6,
            2 / 3 - part.square() * (2 - part) / 2,
            2 / 3 - rest.square() * (2 - rest) / 2,
            part.pow(3) / 6,
        ]
    )
