"""B-splines of degree 3 and 5: smooth fields from coarse arrays, and images between voxels.

A spline of degree n is ``f(x) = Σ c[k] β(x − k)`` with the B-spline β over n + 1 voxels; n − 1 of its
derivatives are continuous (Unser, IEEE Signal Processing Magazine 16(6), 1999; for fields: Rueckert et al.,
IEEE Trans. on Medical Imaging 18(8), 1999). Images are interpolated by cubic ones, and mirrored at the
centres of their outermost voxels, as in SciPy (``mode="mirror"``) and ITK. Fields have ``odd`` ends, which
continue as c[−k] = 2 c[0] − c[k]: a field that ends with zeros is zero between them, too.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor
from torch.nn import functional

from patchmorph.memory import release
from patchmorph.spatial.affine import apply_affine, constant, on_device
from patchmorph.workers import one_core

POLE = 3**0.5 - 2
"""Pole of the recursive filter."""
GAIN = (1 - POLE) * (1 - 1 / POLE)
Ends = Literal["mirror", "odd"]
"""How arrays continue beyond their outermost voxels."""
SplineDegree = Literal[3, 5]
Degree = Literal[1, 3, 5]
"""Of fields; 1 is trilinear interpolation, as `sampling.sample_linear` computes it."""
BASIS: dict[SplineDegree, tuple[tuple[int, ...], ...]] = {
    3: ((1, 4, 1, 0), (-3, 0, 3, 0), (3, -6, 3, 0), (-1, 3, -3, 1)),
    5: (
        (1, 26, 66, 26, 1, 0),
        (-5, -50, 0, 50, 5, 0),
        (10, 20, -60, 20, 10, 0),
        (-10, 20, 0, -20, 10, 0),
        (5, -20, 30, -20, 5, 0),
        (-1, 5, -10, 10, -5, 1),
    ),
}
"""β times the factorial of its degree at the voxels around a point (columns), as polynomials (rows: powers)
of its place between two."""
POINTS, CUDA_POINTS = 2**14, 2**19
"""Points that are computed at a time: what a CPU has caches for, and on CUDA 0.3 GiB."""
SLAB = 32
"""Planes of an array that are filtered at a time in place."""
EULERIAN = {
    3: (1, 4),
    5: (1, 26, 66),
    7: (1, 120, 1191, 2416),
    11: (1, 2036, 152637, 2203488, 9738114, 15724248),
}
"""B-splines at the integers up to 0, times the factorials of their degrees. The integral of a product of two
shifted B-splines is a B-spline of the sum of their degrees plus one (Unser, 1999), so that least squares need
no others."""


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


def nearest_spline(values: Float[Tensor, "b c x y z"], degree: SplineDegree) -> Float[Tensor, "b c x y z"]:
    """Coefficients of the spline with odd ends that is nearest to the trilinear interpolation of ``values``.

    In least squares, axis by axis, with sampled B-splines: ``b7 * c = b5 * values`` for cubic ones, and
    ``b11 * c = b7 * values`` for those of degree 5.
    """
    return _filtered_by(values, functools.partial(nearest_spline_matrix, degree))


def spline_through(values: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c x y z"]:
    """Coefficients of the cubic spline with odd ends that has these ``values`` at the grid points."""
    return _filtered_by(values, _interpolation)


def to_nearest_spline(values: Float[Tensor, "b c x y z"], degree: SplineDegree) -> None:
    """`nearest_spline` in place, a part of the array after the other: for arrays that fill the memory."""
    for axis in (2, 3, 4):
        matrix = nearest_spline_matrix(degree, values.shape[axis]).to(values)
        for part in values.split(SLAB, dim=3 if axis == 2 else 2):
            part.copy_((part.movedim(axis, -1) @ matrix.T).movedim(-1, axis))
            release()


def nearest_linear(values: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c x y z"]:
    """Values whose trilinear interpolation is nearest to the cubic spline with odd ends and these ``values``.

    In least squares, axis by axis: ``b3 * b3 * found = b5 * values`` with sampled B-splines. They halve the
    error of trilinear interpolation, whose mean is then zero.
    """
    return _filtered_by(values, _nearest_linear)


def apply_along_axes(
    values: Float[Tensor, "b c x y z"], matrices: Sequence[Float[Tensor, "_ _"]]
) -> Float[Tensor, "b c u v w"]:
    """``values``, each axis in turn multiplied by its matrix, ``[u, x]`` for the first."""
    along_x, along_y, along_z = matrices
    with one_core():
        planes = along_y @ (values @ along_z.T)
        return (along_x @ planes.flatten(3)).unflatten(3, planes.shape[3:])


def _filtered_by(
    values: Float[Tensor, "b c x y z"], matrix_for: Callable[[int], Float[Tensor, "n n"]]
) -> Float[Tensor, "b c x y z"]:
    matrices = [on_device(matrix_for(count), values.device, values.dtype) for count in values.shape[2:]]
    return apply_along_axes(values, matrices)


@functools.lru_cache(maxsize=64)
def nearest_spline_matrix(degree: SplineDegree, count: int) -> Float[Tensor, "n n"]:
    """What `nearest_spline` multiplies an axis of ``count`` values by, float64."""
    return torch.linalg.solve(_convolution(count, 2 * degree + 1), _convolution(count, degree + 2))


@functools.lru_cache(maxsize=64)
def _interpolation(count: int) -> Float[Tensor, "n n"]:
    return torch.linalg.inv(_convolution(count, 3))


@functools.lru_cache(maxsize=64)
def _nearest_linear(count: int) -> Float[Tensor, "n n"]:
    twice = _convolution(count, 3) @ _convolution(count, 3)
    return torch.linalg.solve(twice, _convolution(count, 5))


def _convolution(count: int, degree: int) -> Float[Tensor, "n n"]:
    """The matrix of a sampled B-spline on ``count`` voxels with odd ends."""
    half = [number / math.factorial(degree) for number in EULERIAN[degree]]
    rows, reach = dict(enumerate(torch.eye(count, dtype=torch.float64))), len(half) - 1
    for k in range(1, reach + 1):  # in turn, since on a short axis one end continues into the other
        rows[-k] = 2 * rows[0] - rows[min(k, count + k - 2)]
        rows[count - 1 + k] = 2 * rows[count - 1] - rows[count - 1 - k]
    taps = zip(range(-reach, reach + 1), (*half, *half[-2::-1]), strict=True)
    terms = [weight * torch.stack([rows[k + shift] for k in range(count)]) for shift, weight in taps]
    return torch.stack(terms).sum(0)


def sample_spline(
    coefficients: Float[Tensor, "#b c x y z"],
    points: Float[Tensor, "#b *n 3"],
    to_voxel: Float[Tensor, "#b 4 4"] | None = None,
    ends: Ends = "mirror",
    degree: SplineDegree = 3,
) -> Float[Tensor, "_ c *n"]:
    """The spline of ``coefficients`` at points; beyond the outermost voxel centres it keeps its border value.

    Args:
        coefficients: a batch of one array serves any batch of points, and vice versa.
        points: voxel indices, or points that ``to_voxel`` (float64) maps to voxel indices. NaN stays NaN.
        ends: how the coefficients continue.
        degree: of the spline.
    """
    voxel = points if to_voxel is None else apply_affine(to_voxel, points)
    batch, size = max(len(coefficients), len(voxel)), voxel.shape[1:-1]
    flat = voxel.reshape(len(voxel), -1, 3)
    if len(coefficients) == 1:
        values = _sampled(coefficients[0], flat.reshape(-1, 3), ends, degree)
        values = values.reshape(coefficients.shape[1], batch, *size).transpose(0, 1)
    else:
        pairs = zip(coefficients, flat.expand(batch, -1, 3), strict=True)
        values = torch.stack([_sampled(*pair, ends, degree) for pair in pairs])
    return values.reshape(batch, coefficients.shape[1], *size)


def _sampled(
    coefficients: Float[Tensor, "c x y z"], voxel: Float[Tensor, "n 3"], ends: Ends, degree: SplineDegree
) -> Float[Tensor, "c n"]:
    """The spline at voxel indices: for each point a weighted sum of 16 rows of a `_table`, or of 36."""
    channels, device = len(coefficients), voxel.device
    values = voxel.new_empty(channels, len(voxel))
    if not len(voxel):
        return values
    last = (constant(tuple(coefficients.shape[1:]), device) - 1).long()
    inside = voxel.clamp(torch.zeros_like(last), last)
    lower, upper = torch.aminmax(inside.nan_to_num(0), dim=0)
    start, stop = lower.floor().int() - degree // 2, upper.floor().int() + degree // 2 + 2
    first, beyond = torch.stack([start, stop]).tolist()
    table, shape = _table(coefficients, first, beyond, ends, degree + 1)
    plane, row = shape[1] * shape[2], shape[2]
    taps = torch.arange(degree + 1, dtype=torch.int32, device=device)
    neighbours = (taps[:, None] * plane + taps * row).reshape(-1)
    of_channel = torch.eye(channels, device=device).repeat(1, degree + 1)
    count = CUDA_POINTS if voxel.is_cuda else POINTS
    for first in range(0, len(voxel), count):
        chunk = inside[first : first + count]
        lower = chunk.floor()
        x, y, z = _weights(chunk - lower, channels, degree)
        i, j, k = (lower.nan_to_num(0).int() - degree // 2 - start).unbind(1)
        rows = (i * plane + j * row + k)[:, None] + neighbours
        sums = functional.embedding_bag(rows, table, mode="sum", per_sample_weights=x.mul_(y))
        values[:, first : first + count] = of_channel @ sums.mul_(z).T
    return values


def _weights(
    part: Float[Tensor, "n 3"], channels: int, degree: SplineDegree
) -> Iterator[Float[Tensor, "n m"]]:
    """β at the voxels around points: along x and along y for their rows, along z for a row's numbers.

    By matrix products, in which a weight is repeated where several rows or channels have it.
    """
    powers = torch.cat(list(itertools.accumulate([part] * degree, torch.mul)), dim=1)
    for weights, matrix in _repeated_basis(degree, channels, part.device):
        yield torch.addmm(weights, powers, matrix)


@functools.lru_cache(maxsize=64)
def _repeated_basis(
    degree: SplineDegree, channels: int, device: torch.device
) -> tuple[tuple[Tensor, Tensor], ...]:
    """For x, y and z: the weights of points at voxels, and the matrix from powers of x, y, z to weights."""
    basis, rows, numbers = _basis(degree).float(), torch.ones(1, degree + 1), torch.ones(1, channels)
    found = []
    for axis, repeated in enumerate(
        (torch.kron(basis, rows), torch.kron(rows, basis), torch.kron(basis, numbers))
    ):
        matrix = torch.zeros(3 * degree, repeated.shape[1])
        matrix[axis::3] = repeated[1:]
        found.append((repeated[0].to(device), matrix.to(device)))
    return tuple(found)


def _table(
    coefficients: Float[Tensor, "c x y z"], start: list[int], stop: list[int], ends: Ends, taps: int
) -> tuple[Float[Tensor, "n m"], list[int]]:
    """Each voxel of a box and those behind it along z, ``taps`` in all, as a row; shape of the box.

    The array continues where the box extends beyond it.
    """
    box = coefficients
    for axis, (first, last) in enumerate(zip(start, stop, strict=True), 1):
        count = box.shape[axis]
        if first >= 0 and last <= count:  # all inside
            box = box.narrow(axis, first, last - first)
            continue
        index = torch.arange(first, last, device=box.device)
        continued = box.index_select(axis, mirrored(index, count))
        if ends == "odd":
            edge = box.index_select(axis, index.clamp(0, count - 1))
            beyond = ((index < 0) | (index >= count)).reshape(-1, *(1 for _ in range(3 - axis)))
            continued = torch.where(beyond, 2 * edge - continued, continued)
        box = continued
    channels, shape = len(box), list(box.shape[1:])
    flat = box.movedim(0, -1).reshape(-1)
    rows = (flat.numel() // channels - taps + 1, taps * channels)
    return torch.as_strided(flat, rows, (channels, 1)).contiguous(), shape


def mirrored(index: Int[Tensor, "*n"], count: int) -> Int[Tensor, "*n"]:
    """The voxels of an axis of ``count`` that indices mean which may lie up to its length beyond it."""
    last = count - 1
    return (last - (last - index.abs()).abs()).clamp(min=0)


def bspline_weights(part: Float[Tensor, " n"], degree: SplineDegree = 3) -> Float[Tensor, "m n"]:
    """β at the voxels around points that lie ``part`` of a voxel beyond one of the two in the middle."""
    powers = torch.stack([part**k for k in range(degree + 1)])
    return _basis(degree).to(part.dtype).T @ powers


def _basis(degree: SplineDegree) -> Float[Tensor, "n n"]:
    return torch.tensor(BASIS[degree], dtype=torch.float64) / math.factorial(degree)
