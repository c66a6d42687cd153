"""A regular lattice of points in the world: of an image, of a patch, of a velocity field."""

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.affine import apply_affine, constant, from_linear, from_translation, invert_affine

Shape = tuple[int, int, int]

SLAB_VOXELS = 250_000
"""Points that are worked on at a time when a whole volume is mapped."""


def triple(values: Iterable[int]) -> Shape:
    """Three numbers as a shape or an index."""
    x, y, z = values
    return x, y, z


@dataclass(frozen=True, eq=False)
class Grid:
    """``B`` lattices of one shape, each with its own pose in the world.

    Attributes:
        shape: number of voxels along the three array axes.
        voxel_to_world: float64 ``[B, 4, 4]``, voxel indices (centres at integers) to RAS+ mm.
    """

    shape: Shape
    voxel_to_world: Float[Tensor, "b 4 4"]

    @classmethod
    def centered(cls, shape: Shape, spacing_mm: float, center_world: Float[Tensor, "b 3"]) -> "Grid":
        """Axis-aligned grids of isotropic spacing around ``center_world`` (RAS+ mm)."""
        center_world = center_world.double()
        middle = (constant(shape, center_world.device) - 1) / 2
        linear = torch.eye(3, dtype=torch.float64, device=center_world.device) * spacing_mm
        return cls(
            shape, from_linear(linear.expand(len(center_world), 3, 3), center_world - middle * spacing_mm)
        )

    @property
    def device(self) -> torch.device:
        """Where the pose lies."""
        return self.voxel_to_world.device

    @property
    def spacing_mm(self) -> Float[Tensor, "b 3"]:
        """Distance between neighbours along each array axis."""
        return self.voxel_to_world[:, :3, :3].norm(dim=1)

    @property
    def center_world(self) -> Float[Tensor, "b 3"]:
        """The middle of the lattice, RAS+ mm."""
        middle = (constant(self.shape, self.device) - 1) / 2
        return apply_affine(self.voxel_to_world, middle[None, None])[:, 0]

    @functools.cached_property
    def world_to_voxel(self) -> Float[Tensor, "b 4 4"]:
        """Inverse of ``voxel_to_world``."""
        return invert_affine(self.voxel_to_world)

    def to_voxel(self, points_world: Float[Tensor, "#b *n 3"]) -> Float[Tensor, "_ *n 3"]:
        """Voxel indices, not rounded, of points given in RAS+ mm."""
        return apply_affine(self.world_to_voxel, points_world)

    def points_voxel(self) -> Float[Tensor, "1 x y z 3"]:
        """Voxel indices of every lattice point, float32."""
        axes = [torch.arange(n, dtype=torch.float32, device=self.device) for n in self.shape]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)[None]

    def points_world(self) -> Float[Tensor, "b x y z 3"]:
        """World position of every lattice point, RAS+ mm, float32: steps along the three axes, added up."""
        x, y, z = (
            torch.arange(count, dtype=torch.float64, device=self.device)[:, None]
            * self.voxel_to_world[:, None, :3, axis]
            for axis, count in enumerate(self.shape)
        )  # [B, n, 3] each
        plane = (self.voxel_to_world[:, None, None, :3, 3] + x[:, :, None]) + y[:, None]
        return plane.float()[:, :, :, None] + z.float()[:, None, None]

    def corners_world(self) -> Float[Tensor, "b 8 3"]:
        """World position of the eight outermost voxel centres, RAS+ mm, float64."""
        ends = [constant((0, n - 1), self.device) for n in self.shape]
        return apply_affine(self.voxel_to_world, torch.cartesian_prod(*ends)[None])

    def coarsen(self, factor: int) -> "Grid":
        """The grid whose voxels are blocks of ``factor``³ voxels of this one; its shape must divide."""
        assert all(n % factor == 0 for n in self.shape), f"{self.shape} does not divide by {factor}"
        linear = torch.eye(3, dtype=torch.float64, device=self.device) * factor
        offset = constant(((factor - 1) / 2,) * 3, self.device)
        shape = triple(n // factor for n in self.shape)
        return Grid(shape, self.voxel_to_world @ from_linear(linear[None], offset[None]))

    def crop(self, start: Shape, shape: Shape) -> "Grid":
        """The sub-lattice of ``shape`` whose first voxel is ``start`` (which may lie outside)."""
        return Grid(shape, self.voxel_to_world @ from_translation(constant(start, self.device)[None]))

    def resampled(self, spacing_mm: float) -> "Grid":
        """The grid of isotropic ``spacing_mm`` with this one's axes and centre that covers its voxels."""
        ratio = [spacing_mm / own for own in self.spacing_mm[0].tolist()]
        counts = zip(self.shape, ratio, strict=True)
        shape = triple(max(1, math.ceil(count / step - 1e-6)) for count, step in counts)
        linear = torch.diag(constant(tuple(ratio), self.device))
        middle = (constant(self.shape, self.device) - 1) / 2 - linear @ (
            (constant(shape, self.device) - 1) / 2
        )
        return Grid(shape, self.voxel_to_world @ from_linear(linear[None], middle[None]))

    def slabs(self, max_voxels: int = SLAB_VOXELS) -> Iterator["Grid"]:
        """Cut along the first axis into grids of about ``max_voxels`` at most, to bound memory."""
        _, y, z = self.shape
        thickness = max(1, max_voxels // (y * z))
        for start in range(0, self.shape[0], thickness):
            stop = min(start + thickness, self.shape[0])
            yield self.crop((start, 0, 0), (stop - start, y, z))

    def to(self, device: torch.device | str) -> "Grid":
        """The same grid on another device."""
        return Grid(self.shape, self.voxel_to_world.to(device))
