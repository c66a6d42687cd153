"""Regular lattices of points in the world: images, patches and velocity grids."""

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import permutations, product
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.affine import (
    apply_affine,
    constant,
    constant_scaling,
    constant_translation,
    from_linear,
    invert_affine,
    on_device,
)

Shape = tuple[int, int, int]
VoxelIndex = tuple[int, int, int]

BLOCK_SIDE = 64
"""Voxels along each side of the blocks in which volumes are processed: a quarter of a million points."""


TIMES = "\N{MULTIPLICATION SIGN}"
DIRECTIONS = ("LR", "PA", "IS")
"""Letters of the two directions of each world axis."""
ROW = 256
"""Points in a row of a reduction."""


def triple(values: Iterable[int]) -> Shape:
    """Three integers as a shape or an index."""
    x, y, z = values
    return x, y, z


def cube(side: int) -> Shape:
    """The shape of a cube."""
    return side, side, side


class VoxelBox(NamedTuple):
    """Voxels of an array from ``start`` up to, but not including, ``stop``."""

    start: VoxelIndex
    stop: VoxelIndex

    @classmethod
    def at(cls, start: VoxelIndex, shape: Shape) -> "VoxelBox":
        """The box of ``shape`` whose first voxel is ``start``."""
        return cls(start, triple(a + n for a, n in zip(start, shape, strict=True)))

    @property
    def shape(self) -> Shape:
        """Voxels along each axis; zero along axes where the box is empty."""
        return triple(max(0, b - a) for a, b in zip(self.start, self.stop, strict=True))

    def widened(self, halo: int, shape: Shape) -> "VoxelBox":
        """The box with ``halo`` more voxels on each side, clipped to an array of ``shape``."""
        start = triple(max(0, a - halo) for a in self.start)
        return VoxelBox(start, triple(min(n, b + halo) for b, n in zip(self.stop, shape, strict=True)))

    def shifted(self, offset: VoxelIndex) -> "VoxelBox":
        """The box of the same shape, ``offset`` voxels further."""
        return VoxelBox.at(triple(a + b for a, b in zip(self.start, offset, strict=True)), self.shape)

    def within(self, other: "VoxelBox") -> "VoxelBox":
        """The box in an array that begins where ``other`` does."""
        start, stop = (triple(a - b for a, b in zip(corner, other.start, strict=True)) for corner in self)
        return VoxelBox(start, stop)

    @property
    def is_empty(self) -> bool:
        """Whether the box contains no voxel."""
        return 0 in self.shape

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """The box as an index into the last three axes of an array."""
        x, y, z = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z


@dataclass(frozen=True, eq=False)
class Grid:
    """``B`` lattices of one shape, each with its own pose in the world.

    Attributes:
        shape: number of voxels along the three array axes.
        voxel_to_world: float64 ``[B, 4, 4]``, voxel indices (centres at integers) to RAS+ mm.
        points_device: where points are made; ``None``: where the matrix is, as in a training step.
    """

    shape: Shape
    voxel_to_world: Float[Tensor, "b 4 4"]
    points_device: torch.device | None = None

    @classmethod
    def centered(cls, shape: Shape, spacing_mm: float, center_world: Float[Tensor, "b 3"]) -> "Grid":
        """Axis-aligned grids of isotropic spacing around ``center_world`` (RAS+ mm)."""
        center_world = center_world.double()
        middle = (constant(shape, center_world.device) - 1) / 2
        linear = torch.eye(3, dtype=torch.float64, device=center_world.device) * spacing_mm
        return cls(
            shape, from_linear(linear.expand(len(center_world), 3, 3), center_world - middle * spacing_mm)
        )

    @classmethod
    def covering(cls, box_world: Float[Tensor, "2 3"], spacing_mm: float, least: Shape = (1, 1, 1)) -> "Grid":
        """The isotropic axis-aligned grid, centred on a box, whose voxels cover the box.

        Args:
            box_world: lower and upper corner, RAS+ mm.
            spacing_mm: voxel size of the grid.
            least: voxels along each axis, at least.
        """
        extent_mm = (box_world[1] - box_world[0]).tolist()
        counts = (math.ceil(length / spacing_mm) for length in extent_mm)
        shape = triple(max(n, fewest) for n, fewest in zip(counts, least, strict=True))
        return cls.centered(shape, spacing_mm, box_world.double().mean(0, keepdim=True))

    @property
    def device(self) -> torch.device:
        """Device of the points."""
        return self.points_device or self.voxel_to_world.device

    @functools.cached_property
    def spacing_mm(self) -> Float[Tensor, "b 3"]:
        """Voxel size along each array axis."""
        return self.voxel_to_world[:, :3, :3].norm(dim=1)

    @property
    def orientation(self) -> str:
        """The directions in which the array axes of the first lattice run, such as ``RAS``."""
        axes = (self.voxel_to_world[0, :3, :3] / self.spacing_mm[0]).T.tolist()  # one row for each array axis
        order = max(permutations(range(3)), key=lambda p: sum(abs(axes[k][p[k]]) for k in range(3)))
        return "".join(DIRECTIONS[p][axes[k][p] > 0] for k, p in enumerate(order))

    @property
    def description(self) -> str:
        """Size, spacing and orientation in words."""
        size = TIMES.join(map(str, self.shape))
        spacing = TIMES.join(f"{length:.4g}" for length in self.spacing_mm[0].tolist())
        return f"{size} voxels of {spacing} mm, {self.orientation}"

    def __repr__(self) -> str:
        count = len(self.voxel_to_world)
        center = ", ".join(f"{round(value, 4) + 0.0:.4g}" for value in self.center_world[0].tolist())
        return f"Grid({f'{count} of ' if count > 1 else ''}{self.description}, centre ({center}) mm)"

    @property
    def center_world(self) -> Float[Tensor, "b 3"]:
        """Centre of the lattice, RAS+ mm."""
        middle = (constant(self.shape, self.voxel_to_world.device) - 1) / 2
        return apply_affine(self.voxel_to_world, middle[None, None])[:, 0]

    @functools.cached_property
    def world_to_voxel(self) -> Float[Tensor, "b 4 4"]:
        """Inverse of ``voxel_to_world``."""
        return invert_affine(self.voxel_to_world)

    def to_voxel(self, points_world: Float[Tensor, "#b *n 3"]) -> Float[Tensor, "_ *n 3"]:
        """Continuous voxel indices of ``points_world`` (RAS+ mm)."""
        return apply_affine(self.world_to_voxel, points_world)

    def points_voxel(self) -> Float[Tensor, "1 x y z 3"]:
        """Voxel indices of every lattice point, float32."""
        axes = [torch.arange(n, dtype=torch.float32, device=self.device) for n in self.shape]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)[None]

    def points_world(self) -> Float[Tensor, "b x y z 3"]:
        """World position of every lattice point, RAS+ mm, float32."""
        matrix = self.voxel_to_world[:, None, :3]
        x, y, z = (
            torch.arange(count, dtype=torch.float64, device=matrix.device)[:, None] * matrix[..., axis]
            for axis, count in enumerate(self.shape)
        )  # [B, n, 3] each
        ends = on_device(torch.cat([matrix[..., 3] + x, y, z], dim=1), self.device)
        x, y, z = ends.split(self.shape, dim=1)
        return (x[:, :, None] + y[:, None]).float()[:, :, :, None] + z.float()[:, None, None]

    def corners_world(self) -> Float[Tensor, "b 8 3"]:
        """World position of the eight outermost voxel centres, RAS+ mm, float64."""
        ends = [constant((0, n - 1), self.voxel_to_world.device) for n in self.shape]
        return apply_affine(self.voxel_to_world, torch.cartesian_prod(*ends)[None])

    def framed(self, shape: Shape, to_voxel: Float[Tensor, "#b 4 4"]) -> "Grid":
        """The lattice of ``shape`` whose voxel indices ``to_voxel`` (float64) maps to those of this one."""
        return Grid(shape, self.voxel_to_world @ to_voxel.to(self.voxel_to_world.device), self.points_device)

    def coarsen(self, factor: int) -> "Grid":
        """The grid whose voxels are blocks of ``factor``³ voxels, which must divide ``shape``."""
        divisible = all(n % factor == 0 for n in self.shape)
        assert divisible, f"shape must be divisible by {factor}, got {self.shape}"
        matrix = constant_scaling(cube(factor), ((factor - 1) / 2,) * 3, self.voxel_to_world.device)
        return self.framed(triple(n // factor for n in self.shape), matrix)

    def crop(self, start: Shape, shape: Shape) -> "Grid":
        """The lattice of ``shape`` whose first voxel is ``start``; it may extend beyond this one."""
        return self.framed(shape, constant_translation(start, self.voxel_to_world.device))

    def resampled(self, spacing_mm: float) -> "Grid":
        """The isotropic grid of ``spacing_mm`` with the same axes and centre that covers the same voxels."""
        ratio = [spacing_mm / own for own in self.spacing_mm[0].tolist()]
        counts = zip(self.shape, ratio, strict=True)
        shape = triple(max(1, math.ceil(count / step - 1e-6)) for count, step in counts)
        sizes = zip(self.shape, shape, ratio, strict=True)
        middle = tuple((own - 1) / 2 - step * ((count - 1) / 2) for own, count, step in sizes)
        return self.framed(shape, constant_scaling(tuple(ratio), middle, self.voxel_to_world.device))

    def widened(self, halo: int) -> "Grid":
        """The lattice with ``halo`` more voxels on each side."""
        return self.crop(cube(-halo), triple(count + 2 * halo for count in self.shape))

    def blocks(self, side: int | Shape = BLOCK_SIDE) -> Iterator[tuple[VoxelBox, "Grid"]]:
        """Partition into blocks of at most ``side`` voxels along each axis, each as its box and its grid.

        Whole volumes are processed block by block, so that memory does not grow with the volume.
        """
        sides = cube(side) if isinstance(side, int) else side
        for start in product(*(range(0, count, step) for count, step in zip(self.shape, sides, strict=True))):
            stop = triple(min(a + n, end) for a, n, end in zip(start, sides, self.shape, strict=True))
            box = VoxelBox(triple(start), stop)
            yield box, self.crop(box.start, box.shape)

    def box_around(self, points_world: Float[Tensor, "*n 3"], margin: int) -> VoxelBox:
        """The box of voxels inside the grid that contains the neighbours of all ``points_world``.

        Computed from the bounding box of the points in the world, so that the points are read only once; on
        an oblique grid it may be larger than necessary.

        Args:
            points_world: RAS+ mm; points that are not finite are ignored.
            margin: additional voxels on each side.
        """
        flat = points_world.detach().reshape(-1, 3)
        if not len(flat):
            return VoxelBox((0, 0, 0), (0, 0, 0))
        bounds = _bounds(flat).to(self.voxel_to_world.device)
        if not bounds.isfinite().all():
            return self.box_around(flat[flat.isfinite().all(-1)], margin)
        corners = torch.cartesian_prod(*bounds.double())
        voxel = self.to_voxel(corners[None])[0]
        start = (math.floor(value) - margin for value in voxel.amin(0).tolist())
        stop = (math.ceil(value) + margin + 1 for value in voxel.amax(0).tolist())
        return VoxelBox(
            triple(min(max(first, 0), n) for first, n in zip(start, self.shape, strict=True)),
            triple(min(max(last, 0), n) for last, n in zip(stop, self.shape, strict=True)),
        )

    def equals(self, other: "Grid") -> bool:
        """Whether both have the same shape and pose."""
        return self.shape == other.shape and torch.equal(self.voxel_to_world, other.voxel_to_world)

    def to(self, device: torch.device | str) -> "Grid":
        """The same grid with its points on another device; the matrix is kept in the processor's memory."""
        return Grid(self.shape, self.voxel_to_world.cpu(), torch.device(device))


def _bounds(points: Float[Tensor, "n 3"]) -> Float[Tensor, "3 2"]:
    """Smallest and largest coordinate along each axis; many points a row, which is four times as fast."""
    whole = len(points) // ROW * ROW
    parts = [
        part for part in (points[:whole].reshape(-1, 3 * ROW), points[whole:].reshape(-1, 3)) if len(part)
    ]
    least = torch.cat([part.amin(0).reshape(-1, 3) for part in parts]).amin(0)
    most = torch.cat([part.amax(0).reshape(-1, 3) for part in parts]).amax(0)
    return torch.stack([least, most], dim=1)
