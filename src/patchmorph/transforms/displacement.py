"""Displacement fields: a vector in mm at every point of a grid."""

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.grid import Grid
from patchmorph.spatial.sampling import Outside, sample_linear
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform
from patchmorph.transforms.inverse import TOLERANCE_MM, solve

NOTHING_MM = 1e-4
"""What rounding leaves of a flow at the faces of a grid where its velocity is zero."""
POINTS = 16
"""Along each side of a grid, about: enough to find the affine map nearest to a field."""
LEAST_DETERMINANT = 1e-2
"""Of that map, below which it is no help."""


class DisplacementField(Transform):
    """``φ(x) = x + u(x)``, with u trilinear between grid points.

    Attributes:
        displacement: ``[B, 3, X, Y, Z]``, mm along the world axes (x, y, z).
        grid: where the vectors stand.
        outside: beyond the grid u goes on as at its border (our fields), or is zero (other tools' fields).
    """

    def __init__(self, displacement: Float[Tensor, "b 3 x y z"], grid: Grid, outside: Outside = "border"):
        self.displacement = displacement
        self.grid = grid
        self.outside: Outside = outside

    def at(self, points: Float[Tensor, "#b *n 3"]) -> Float[Tensor, "_ *n 3"]:
        """u at ``points`` (RAS+ mm)."""
        return sample_linear(self.displacement, points, self.outside, self.grid.world_to_voxel).movedim(1, -1)

    def __call__(self, points: Float[Tensor, "#b *n 3"]) -> Float[Tensor, "_ *n 3"]:
        """Where ``points`` go."""
        return points + self.at(points)

    @functools.cached_property
    def fades(self) -> bool:
        """Whether u is zero at the faces of its grid."""
        ends = [self.displacement.select(axis, end) for axis in (2, 3, 4) for end in (0, -1)]
        return all(float(end.abs().max()) < NOTHING_MM for end in ends)

    def support(self) -> Grid | None:
        """Its grid, if nothing goes on beyond that."""
        return self.grid if self.outside == "zeros" or self.fades else None

    def inverse(self) -> "InverseDisplacement":
        """The map back, found by iteration at each point."""
        return InverseDisplacement(self)

    @classmethod
    @torch.no_grad()
    def tabulate(cls, transform: Transform, grid: Grid) -> "DisplacementField":
        """Any transform as its displacements at the points of ``grid``."""
        slabs = []
        for slab in grid.slabs():
            points = slab.points_world()
            slabs.append((transform(points) - points).movedim(-1, 1))
        return cls(torch.cat(slabs, dim=2), grid)

    def to(self, device: torch.device | str) -> "DisplacementField":
        """The same field on another device."""
        return DisplacementField(self.displacement.to(device), self.grid.to(device), self.outside)


class InverseDisplacement(Transform):
    """Solves ``x + u(x) = y`` for x at each point, to ``tolerance_mm`` where there is such an x.

    The search starts from the affine map nearest to the field, so that a pose within it does no harm. Where
    the field is zero outside its grid, a y that nothing inside is taken to stays where it is.
    """

    def __init__(self, forward: DisplacementField, tolerance_mm: float = TOLERANCE_MM):
        self.forward = forward
        self.tolerance_mm = tolerance_mm

    def __call__(self, points: Float[Tensor, "#b *n 3"]) -> Float[Tensor, "_ *n 3"]:
        """Where ``points`` come from."""
        targets = points.reshape(len(points), -1, 3)
        going_on = DisplacementField(self.forward.displacement, self.forward.grid)
        found = solve(going_on, targets, self._back(targets), self.tolerance_mm)
        if self.forward.outside == "zeros" and not self.forward.fades:
            voxel = self.forward.grid.to_voxel(found)
            last = torch.tensor(self.forward.grid.shape, device=voxel.device) - 1
            within = ((voxel > -0.5) & (voxel < last + 0.5)).all(-1, keepdim=True)
            found = torch.where(within, found, targets)
        return found.reshape(-1, *points.shape[1:])

    @functools.cached_property
    def _back(self) -> AffineTransform:
        grid = self.forward.grid
        x, y, z = (max(1, count // POINTS) for count in grid.shape)
        points = grid.points_world()[:, ::x, ::y, ::z].reshape(len(grid.voxel_to_world), -1, 3)
        nearest = AffineTransform.nearest(points, self.forward(points))
        flat = torch.linalg.det(nearest.matrix[:, :3, :3]).abs().min() < LEAST_DETERMINANT
        return AffineTransform.identity(grid.device) if flat else nearest.inverse()

    def within(self, tolerance_mm: float) -> "InverseDisplacement":
        """The same, found to another tolerance."""
        return InverseDisplacement(self.forward, tolerance_mm)

    def support(self) -> Grid | None:
        """The field's, where that fades: what it leaves where it is comes from there."""
        return self.forward.support() if self.forward.fades else None

    def inverse(self) -> DisplacementField:
        """The field itself."""
        return self.forward

    def to(self, device: torch.device | str) -> "InverseDisplacement":
        """The same map on another device."""
        return InverseDisplacement(self.forward.to(device), self.tolerance_mm)
