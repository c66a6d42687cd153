"""Algebra of batched 4×4 homogeneous matrices.

Matrices are float64 ``[B, 4, 4]`` and read ``source_to_target``; points are float32 ``[B, ..., 3]``. The
matrices of a registration stay in the processor's memory, wherever its points are: on a GPU each operation
takes a launch. Those of a training step are where its points are; then no function synchronises with the GPU,
so that the step can be captured as one CUDA graph.
"""

import functools

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from patchmorph.spatial.compilation import compilable

Matrix = Float[Tensor, "b 4 4"]

POINTS_PER_ROW = 8
"""Points per row of the matrix product on a CPU: rows of one point do not fill its vector registers."""


@functools.lru_cache(maxsize=4096)  # captured CUDA graphs read these: never evicted
def constant(values: tuple[int | float, ...], device: torch.device) -> Float[Tensor, " n"]:
    """A float64 vector on ``device``; cached, so that it is copied there only once."""
    return torch.tensor(values, dtype=torch.float64, device=device)


def on_device(small: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """A small tensor on ``device``, without a wait for what a GPU still computes; converted where it is."""
    return small.to(dtype or small.dtype).to(device, non_blocking=small.device.type == "cpu")


def apply_affine(
    matrix: Float[Tensor, "#b 4 4"], points: Float[Tensor, "#b *n 3"]
) -> Float[Tensor, "_ *n 3"]:
    """Map ``points`` by ``matrix``; their batch axes broadcast. Points that are NaN stay NaN."""
    if len(matrix) == 1 and not points.is_cuda and not torch.is_grad_enabled() and points.sum().isfinite():
        return _map_in_rows(matrix[0].to(points.dtype), points.reshape(-1, 3)).reshape(points.shape)
    mapped = _map_points(on_device(matrix, points.device, points.dtype), points.reshape(len(points), -1, 3))
    return mapped.reshape(len(mapped), *points.shape[1:])


def _map_in_rows(matrix: Float[Tensor, "4 4"], points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Map several points per row by a block-diagonal matrix: four times as fast on a CPU.

    The points must be finite: NaN times a zero of the matrix would spoil the other points of its row.
    """
    rows = functional.pad(points, (0, 0, 0, -len(points) % POINTS_PER_ROW)).reshape(-1, 3 * POINTS_PER_ROW)
    blocks = torch.kron(torch.eye(POINTS_PER_ROW, dtype=matrix.dtype), matrix[:3, :3].T.contiguous())
    return torch.addmm(matrix[:3, 3].repeat(POINTS_PER_ROW), rows, blocks).reshape(-1, 3)[: len(points)]


@compilable
def _map_points(matrix: Float[Tensor, "#b 4 4"], points: Float[Tensor, "#b n 3"]) -> Float[Tensor, "_ n 3"]:
    """Map points by a weighted sum of the matrix columns.

    The backward pass of a batched matrix product of millions of points with a 3×3 matrix took most of a
    training step (docs/decisions/002), and on CUDA products may be of TF32, which moves points by 0.1 mm.
    """
    along_x, along_y, along_z, shift = matrix[:, None, :3].unbind(-1)
    x, y, z = points.split(1, dim=-1)
    return torch.addcmul(torch.addcmul(torch.addcmul(shift, x, along_x), y, along_y), z, along_z)


def rotate_vectors(
    linear: Float[Tensor, "#b 3 3"], vectors: Float[Tensor, "#b 3 *n"]
) -> Float[Tensor, "_ 3 *n"]:
    """Multiply vectors, stored as channels, by the linear part of an affine map."""
    rows = (-1, 3, *(1 for _ in vectors.shape[2:]))
    along = (column.reshape(rows) for column in on_device(linear, vectors.device, vectors.dtype).unbind(2))
    x, y, z = (column * part for column, part in zip(along, vectors.split(1, 1), strict=True))
    return x + y + z


def invert_affine(matrix: Matrix) -> Matrix:
    """Invert by cofactors: accurate enough in float64, and without the host synchronisation of ``inv``."""
    rows = matrix[:, :3, :3]
    cofactors = torch.linalg.cross(rows.roll(-1, 1), rows.roll(-2, 1))
    determinant = (rows[:, 0] * cofactors[:, 0]).sum(-1)
    linear = cofactors.mT.contiguous() / determinant[:, None, None]
    return from_linear(linear, -(linear @ matrix[:, :3, 3:])[..., 0])


def from_linear(linear: Float[Tensor, "b 3 3"], translation: Float[Tensor, "b 3"]) -> Matrix:
    """Homogeneous matrix of ``x ↦ linear x + translation``."""
    top = torch.cat([linear, translation[..., None]], dim=-1)
    bottom = constant((0, 0, 0, 1), top.device).to(top.dtype)
    return torch.cat([top, bottom.expand(len(top), 1, 4)], dim=1)


def from_translation(translation: Float[Tensor, "b 3"]) -> Matrix:
    """Homogeneous matrix of a translation."""
    identity = torch.eye(3, dtype=translation.dtype, device=translation.device)
    return from_linear(identity.expand(len(translation), 3, 3), translation)


@functools.lru_cache(maxsize=4096)
def constant_translation(shift: tuple[int, ...], device: torch.device) -> Matrix:
    """Homogeneous matrix of a translation by ``shift``; cached as `constant` is."""
    return from_translation(constant(shift, device)[None])


@functools.lru_cache(maxsize=4096)
def constant_scaling(
    factors: tuple[int | float, ...], shift: tuple[int | float, ...], device: torch.device
) -> Matrix:
    """Homogeneous matrix of ``x ↦ factors · x + shift``; cached as `constant` is."""
    return from_linear(torch.diag(constant(factors, device))[None], constant(shift, device)[None])


def about_point(linear: Float[Tensor, "b 3 3"], center: Float[Tensor, "b 3"]) -> Matrix:
    """Homogeneous matrix that applies ``linear`` about ``center``."""
    return from_linear(linear, center - (linear @ center[..., None])[..., 0])


def exponential(
    generator: Float[Tensor, "b n n"], squarings: int = 6, order: int = 6
) -> Float[Tensor, "b n n"]:
    """Matrix exponential by a Taylor series with scaling and squaring.

    ``torch.linalg.matrix_exp`` chooses its order on the host, which stalls the GPU. Here the order and the
    number of squarings are fixed: for a norm up to 4 the remainder is below 1e-10.
    """
    scaled = generator / 2**squarings
    identity = torch.eye(generator.shape[-1], dtype=generator.dtype, device=generator.device)
    result = identity.expand_as(scaled)
    for k in range(order, 0, -1):
        result = torch.baddbmm(identity, scaled, result, alpha=1 / k)
    for _ in range(squarings):
        result = torch.bmm(result, result)
    return result


def skew(vector: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3 3"]:
    """Cross-product matrix: the generator of a rotation about ``vector`` by its length in radians."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(-1, 3, 3)
