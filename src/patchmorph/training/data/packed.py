"""Many volumes of any shapes in one flat buffer of small integers, sampled in place.

On a GPU no volume is copied, converted or padded: only the eight voxels around each point are read, so the
cost of a sample depends on the number of points alone. The buffer may be host memory that a GPU reads over
the bus (`mapped_to`), for images that exceed the GPU's memory.
"""

import functools
import math
from collections.abc import Callable, Sequence
from itertools import product

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.spatial.affine import apply_affine, invert_affine
from patchmorph.spatial.compilation import can_compile
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.sampling import sample_linear

CORNERS = tuple(product((0, 1), repeat=3))


class PackedVolumes:
    """A fixed number of slots, each of which holds one volume of at most its capacity.

    Attributes:
        buffer: all voxels, slot after slot.
        first: int64 ``[N]``, index of each slot's first voxel.
        shape: int64 ``[N, 3]``, of the volume in each slot.
        world_to_voxel: float64 ``[N, 4, 4]``, of the volume in each slot.
    """

    def __init__(
        self,
        capacities: Sequence[int],
        device: torch.device,
        dtype: torch.dtype = torch.uint8,
        on_host: bool = False,
    ):
        """Allocate the buffer.

        Args:
            capacities: number of voxels of each slot.
            device: where samples are computed.
            dtype: of the voxels.
            on_host: whether the voxels stay in page-locked host memory if ``device`` is a GPU.
        """
        total = max(1, sum(capacities))  # points outside read the first voxel and discard it
        self.capacities = tuple(capacities)
        self.on_host = on_host and device.type == "cuda"
        if self.on_host:
            self._host = torch.zeros(total, dtype=dtype, pin_memory=True)
            self.buffer = mapped_to(device, self._host)
        else:
            self._host = self.buffer = torch.zeros(total, dtype=dtype, device=device)
        ends = torch.tensor([0, *capacities]).cumsum(0)
        self.first = ends[:-1].to(device)
        self._starts = ends.tolist()
        # An empty slot has no voxels: every point is outside.
        self.shape = torch.zeros(len(capacities), 3, dtype=torch.int64, device=device)
        self.world_to_voxel = torch.eye(4, dtype=torch.float64, device=device).repeat(len(capacities), 1, 1)

    def put(self, slot: int, volume: Shaped[Tensor, "1 1 x y z"], grid: Grid) -> None:
        """Replace the volume in ``slot``."""
        count = volume.numel()
        assert count <= self.capacities[slot], f"{count} voxels in a slot of {self.capacities[slot]}"
        if self.on_host:  # the GPU may still be reading the slot
            torch.cuda.synchronize(self.buffer.device)
        start = self._starts[slot]
        self._host[start : start + count].copy_(volume.reshape(-1))
        self.shape[slot] = torch.tensor(grid.shape)
        self.world_to_voxel[slot] = invert_affine(grid.voxel_to_world)[0].to(self.shape.device)

    def sample(
        self, index: Int[Tensor, " b"], points_world: Float[Tensor, "b *n 3"]
    ) -> Float[Tensor, "b 1 *n"]:
        """Trilinear values of volume ``index[k]`` at ``points_world[k]``; zero outside.

        Differentiable in the points. Values are those of the buffer (0 to 255), as float32.
        """
        flat = points_world.flatten(1, -2)
        if self.buffer.is_cuda:
            values = Trilinear.apply(flat, self.world_to_voxel[index], *self._look_up(index))
        else:
            values = torch.stack([self._cropped(int(k), p) for k, p in zip(index, flat, strict=True)])
        return values.reshape(len(index), 1, *points_world.shape[1:-1])

    def corners(
        self, index: Int[Tensor, " b"], points_world: Float[Tensor, "b *n 3"]
    ) -> tuple[Shaped[Tensor, "b 8 m"], Float[Tensor, "b 8 m"]]:
        """The eight voxels around each point and their trilinear weights, which are differentiable."""
        voxel = apply_affine(self.world_to_voxel[index], points_world.flatten(1, -2))
        lower = voxel.detach().floor()
        sides = [(1 - fraction, fraction) for fraction in (voxel - lower).unbind(-1)]
        corners = [_corner(*self._look_up(index), lower.long(), corner) for corner in CORNERS]
        weights = [sides[0][a] * sides[1][b] * sides[2][c] for a, b, c in CORNERS]
        return torch.stack(corners, 1), torch.stack(weights, 1)

    def nearest(
        self, index: Int[Tensor, " b"], points_world: Float[Tensor, "b *n 3"]
    ) -> Shaped[Tensor, "b 1 *n"]:
        """The nearest voxel's value; zero outside."""
        voxel = apply_affine(self.world_to_voxel[index], points_world.flatten(1, -2))
        values = _corner(*self._look_up(index), (voxel + 0.5).floor().long(), (0, 0, 0))
        return values.reshape(len(index), 1, *points_world.shape[1:-1])

    def painted(
        self,
        index: Int[Tensor, " b"],
        points_world: Float[Tensor, "b *n 3"],
        colors: Float[Tensor, "b c"],
        reach_mm: float,
    ) -> Float[Tensor, "b 1 *n"]:
        """Mean ``colors[label]`` of the nearest voxels at eight points, ``reach_mm`` off along each axis."""
        flat, matrix = points_world.detach().flatten(1, -2), self.world_to_voxel[index].float()
        values = _painter(self.buffer.is_cuda)(flat, matrix, *self._look_up(index), colors, reach_mm)
        return values.reshape(len(index), 1, *points_world.shape[1:-1])

    def _look_up(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.buffer, self.first[index], self.shape[index]

    def _cropped(self, slot: int, points_world: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """On the CPU: trilinear values from the box around the points, converted to float."""
        shape = tuple(self.shape[slot].tolist())
        if 0 in shape:
            return torch.zeros_like(points_world[:, 0])
        start = self._starts[slot]
        volume = self.buffer[start : start + math.prod(shape)].reshape(1, 1, *shape)
        voxel = apply_affine(self.world_to_voxel[slot][None], points_world[None])
        located = voxel.detach()[0].nan_to_num()  # the caller reports losses that are not finite
        box = []
        for axis, count in enumerate(shape):
            lower = int(located[:, axis].amin().floor().clamp(0, count - 1))
            upper = int(located[:, axis].amax().ceil().clamp(lower, count - 1))
            # Two voxels of margin: samples are zero beyond the crop, as beyond the volume.
            box.append(slice(max(0, lower - 2), upper + 3))
        crop = volume[(0, 0, *box)][None, None].float()
        origin = torch.tensor([axis.start for axis in box], dtype=voxel.dtype)
        return sample_linear(crop, voxel - origin, outside="zeros")[0, 0]


def mapped_to(device: torch.device, host: Tensor) -> Tensor:
    """A CUDA tensor over page-locked host memory: kernels read it over the bus, without a copy.

    Raises:
        PatchMorphError: the driver does not map host memory.
    """
    interface = {
        "shape": tuple(host.shape),
        "typestr": {torch.uint8: "|u1", torch.int16: "<i2"}[host.dtype],
        "data": (host.data_ptr(), False),
        "version": 3,
    }
    holder = type("PageLocked", (), {"__cuda_array_interface__": interface, "owner": host})()
    try:
        mapped = torch.as_tensor(holder, device=device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise PatchMorphError(f"GPU must be able to read page-locked host memory, got: {error}") from None
    assert mapped.data_ptr() == host.data_ptr(), "the memory was copied, not mapped"
    return mapped


class Trilinear(torch.autograd.Function):
    """Trilinear sampling that computes the gradient in the points together with the values."""

    @staticmethod
    def forward(ctx, points: Tensor, matrix: Tensor, buffer: Tensor, first: Tensor, shape: Tensor) -> Tensor:
        read = _reader() if points.is_cuda else read_trilinear
        if not ctx.needs_input_grad[0]:
            return read(points, matrix.float(), buffer, first, shape, False)[0]
        values, gradient = read(points, matrix.float(), buffer, first, shape, True)
        ctx.save_for_backward(gradient)
        return values

    @staticmethod
    def backward(ctx, incoming: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (gradient,) = ctx.saved_tensors
        return incoming[..., None] * gradient, None, None, None, None


@functools.cache
def _reader() -> Callable[..., tuple[Tensor, Tensor]]:
    """`read_trilinear`, compiled if possible, since it consists of a hundred small operations otherwise."""
    return torch.compile(read_trilinear, dynamic=True) if can_compile() else read_trilinear


@functools.cache
def _painter(on_gpu: bool) -> Callable[..., Tensor]:
    return torch.compile(read_painted, dynamic=True) if on_gpu and can_compile() else read_painted


def read_painted(
    points: Float[Tensor, "b n 3"],
    matrix: Float[Tensor, "b 4 4"],
    buffer: Shaped[Tensor, " v"],
    first: Int[Tensor, " b"],
    shape: Int[Tensor, "b 3"],
    colors: Float[Tensor, "b c"],
    reach_mm: float,
) -> Float[Tensor, "b n"]:
    """Mean color of the nearest voxels at eight points around each point (see `PackedVolumes.painted`)."""
    voxel = apply_affine(matrix, points) + 0.5
    value = torch.zeros_like(voxel[..., 0])
    for corner in CORNERS:
        signs = [2 * side - 1 for side in corner]
        step = sum(sign * reach_mm * matrix[:, None, :3, k] for k, sign in enumerate(signs))
        label = _corner(buffer, first, shape, (voxel + step).floor().long(), (0, 0, 0))
        value = value + colors.gather(1, label.long())
    return value / len(CORNERS)


def read_trilinear(
    points: Float[Tensor, "b n 3"],
    matrix: Float[Tensor, "b 4 4"],
    buffer: Shaped[Tensor, " v"],
    first: Int[Tensor, " b"],
    shape: Int[Tensor, "b 3"],
    with_gradient: bool,
) -> tuple[Float[Tensor, "b n"], Float[Tensor, "..."]]:
    """Trilinear values at world points, and their gradient per mm (empty without ``with_gradient``)."""
    voxel = apply_affine(matrix, points)
    lower = voxel.floor()
    fraction = (voxel - lower).unbind(-1)
    sides = [(1 - f, f) for f in fraction]
    index = lower.long()
    value = torch.zeros_like(fraction[0])
    slope = [torch.zeros_like(value) for _ in range(3)]
    for a, b, c in CORNERS:
        corner = _corner(buffer, first, shape, index, (a, b, c)).float()
        value = value + corner * sides[0][a] * sides[1][b] * sides[2][c]
        if with_gradient:
            slope[0] = slope[0] + corner * (2 * a - 1) * sides[1][b] * sides[2][c]
            slope[1] = slope[1] + corner * (2 * b - 1) * sides[0][a] * sides[2][c]
            slope[2] = slope[2] + corner * (2 * c - 1) * sides[0][a] * sides[1][b]
    if not with_gradient:
        return value, value[:0]
    rows = matrix[:, None, :3, :3]
    gradient = [sum(slope[row] * rows[:, :, row, column] for row in range(3)) for column in range(3)]
    return value, torch.stack(gradient, dim=-1)  # type: ignore[arg-type]


def _corner(buffer: Tensor, first: Tensor, shape: Tensor, lower: Tensor, corner: Sequence[int]) -> Tensor:
    """The voxels at ``lower + corner`` of each volume, zero outside."""
    sizes = shape[:, None, :].unbind(-1)
    index = [part + step for part, step in zip(lower.unbind(-1), corner, strict=True)]
    inside = functools.reduce(
        torch.logical_and, [(i >= 0) & (i < n) for i, n in zip(index, sizes, strict=True)]
    )
    x, y, z = index
    position = first[:, None] + (x * sizes[1] + y) * sizes[2] + z
    return torch.where(inside, buffer[torch.where(inside, position, 0)], 0)
