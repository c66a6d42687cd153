"""Displacement fields: a vector in mm at every point of a grid."""

import functools
import math
from collections import deque

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.bsplines import Degree, sample_spline
from patchmorph.spatial.grid import Grid, VoxelBox
from patchmorph.spatial.lattices import along_axes, sample_lattice
from patchmorph.spatial.sampling import Outside, sample_linear
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.inverse import TOLERANCE_MM, solve
from patchmorph.workers import in_order

ZERO_TOLERANCE_MM = 1e-4
"""Displacement that counts as zero: the rounding error of a flow at faces where its velocity is zero."""
FIT_POINTS = 16
"""Approximate number of points along each axis to which the affine map nearest to a field is fitted."""
MIN_DETERMINANT = 1e-2
"""Determinant of that affine map below which the identity replaces it."""


class DisplacementField(Transform):
    """``φ(x) = x + u(x)``, with u trilinear between grid points, or a B-spline (`spatial.bsplines`).

    Attributes:
        displacement: u at the grid points, or the coefficients of its spline with odd ends,
            ``[B, 3, X, Y, Z]``, mm along the world axes (x, y, z).
        grid: grid of the vectors.
        outside: ``border``: u keeps its border value beyond the grid (our fields); ``zeros``: u is zero there
            (fields of other tools, which are trilinear).
        degree: of the spline; 1: u is trilinear.
    """

    def __init__(
        self,
        displacement: Float[Tensor, "b 3 x y z"],
        grid: Grid,
        outside: Outside = "border",
        degree: Degree = 1,
    ):
        assert outside == "border" or degree == 1
        self.displacement = displacement
        self.grid = grid
        self.outside: Outside = outside
        self.degree: Degree = degree

    def __repr__(self) -> str:
        largest = float(self.displacement.norm(dim=1).nan_to_num().max())
        return f"DisplacementField({self.grid.description}, up to {largest:.4g} mm)"

    def at(self, points: Float[Tensor, "#b *n 3"]) -> Float[Tensor, "_ *n 3"]:
        """u at ``points`` (RAS+ mm), in mm along the world axes."""
        to_voxel = self.grid.world_to_voxel
        if self.degree == 1:
            return sample_linear(self.displacement, points, self.outside, to_voxel).movedim(1, -1)
        return sample_spline(self.displacement, points, to_voxel, "odd", self.degree).movedim(1, -1)

    def __call__(self, points: Float[Tensor, "#b *n 3"]) -> Float[Tensor, "_ *n 3"]:
        """The mapped ``points``."""
        return points + self.at(points)

    def at_grid(self, grid: Grid) -> Float[Tensor, "_ x y z 3"]:
        """The mapped points of ``grid``."""
        moved = self.along_axes(grid)
        return self(grid.points_world()) if moved is None else grid.points_world() + moved.movedim(1, -1)

    def along_axes(self, grid: Grid) -> Float[Tensor, "1 3 x y z"] | None:
        """u at the points of ``grid``, interpolated along one axis after the other.

        ``None`` where the axes of ``grid`` are not those of the field, or there are several of either; and in
        a training step, whose matrices are on the GPU.
        """
        if self.grid.voxel_to_world.is_cuda or len(self.displacement) > 1 or len(grid.voxel_to_world) > 1:
            return None
        if not self._is_finite:
            return None
        to_voxel = self.grid.world_to_voxel @ grid.voxel_to_world
        axes = along_axes(to_voxel, grid.shape)
        if axes is None:
            return None
        return sample_lattice(self.displacement, to_voxel, axes, grid.shape, self.outside, self.degree)

    @functools.cached_property
    def _is_finite(self) -> bool:
        return math.isfinite(float(self.displacement.sum()))

    @functools.cached_property
    def fades(self) -> bool:
        """Whether u is zero at the faces of its grid."""
        ends = [self.displacement.select(axis, end) for axis in (2, 3, 4) for end in (0, -1)]
        return all(float(end.abs().max()) < ZERO_TOLERANCE_MM for end in ends)

    def support(self) -> Grid | None:
        """The grid of the field if u is zero beyond it, else ``None``."""
        return self.grid if self.outside == "zeros" or self.fades else None

    def inverse(self) -> "InverseDisplacement":
        """The inverse map, solved iteratively at each point."""
        return InverseDisplacement(self)

    @classmethod
    @torch.no_grad()
    def tabulate(cls, transform: Transform, grid: Grid) -> "DisplacementField":
        """The displacement field of any transform, evaluated at the points of ``grid``."""
        displacement = torch.empty(1, 3, *grid.shape, device=grid.device)

        def fill(part: tuple[VoxelBox, Grid]) -> None:
            box, block = part
            moved = transform.at_grid(block) - block.points_world()
            displacement[(..., *box.slices)] = moved.movedim(-1, 1)

        deque(in_order(fill, grid.blocks(), grid.device), maxlen=0)
        return cls(displacement, grid)

    def to(self, device: torch.device | str) -> "DisplacementField":
        """The same field on another device."""
        return DisplacementField(
            self.displacement.to(device), self.grid.to(device), self.outside, self.degree
        )


class InverseDisplacement(Transform):
    """Solve ``x + u(x) = y`` for x at each point, to ``tolerance_mm`` where a solution exists.

    The iteration starts from the inverse of the affine map nearest to the field, so that the field may
    contain a large pose. If u is zero outside the grid, a y without a solution inside it maps to itself.
    """

    def __init__(self, forward: DisplacementField, tolerance_mm: float = TOLERANCE_MM):
        self.forward = forward
        self.tolerance_mm = tolerance_mm

    def __call__(self, points: Float[Tensor, "#b *n 3"]) -> Float[Tensor, "_ *n 3"]:
        """The points that the field maps to ``points``."""
        targets = points.reshape(len(points), -1, 3)
        extended = DisplacementField(self.forward.displacement, self.forward.grid, degree=self.forward.degree)
        found = solve(extended, targets, self._nearest_inverse(targets), self.tolerance_mm)
        if self.forward.outside == "zeros" and not self.forward.fades:
            voxel = self.forward.grid.to_voxel(found)
            last = torch.tensor(self.forward.grid.shape, device=voxel.device) - 1
            within = ((voxel > -0.5) & (voxel < last + 0.5)).all(-1, keepdim=True)
            found = torch.where(within, found, targets)
        return found.reshape(-1, *points.shape[1:])

    def __repr__(self) -> str:
        return f"InverseDisplacement({self.forward!r})"

    @functools.cached_property
    def _nearest_inverse(self) -> AffineTransform:
        grid = self.forward.grid
        x, y, z = (max(1, count // FIT_POINTS) for count in grid.shape)
        points = grid.points_world()[:, ::x, ::y, ::z].reshape(len(grid.voxel_to_world), -1, 3)
        nearest = AffineTransform.nearest(points, self.forward(points))
        singular = torch.linalg.det(nearest.matrix[:, :3, :3]).abs().min() < MIN_DETERMINANT
        return AffineTransform.identity() if singular else nearest.inverse()

    def within(self, tolerance_mm: float) -> "InverseDisplacement":
        """The same map with another tolerance."""
        return InverseDisplacement(self.forward, tolerance_mm)

    def support(self) -> Grid | None:
        """The support of the field if u is zero at its faces, else ``None``."""
        return self.forward.support() if self.forward.fades else None

    def inverse(self) -> DisplacementField:
        """The displacement field."""
        return self.forward

    def to(self, device: torch.device | str) -> "InverseDisplacement":
        """The same map on another device."""
        return InverseDisplacement(self.forward.to(device), self.tolerance_mm)
