"""Displacement fields: a vector in mm at every point of a grid."""

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.grid import Grid
from patchmorph.spatial.sampling import Outside, sample_linear
from patchmorph.transforms.base import Transform
from patchmorph.transforms.inverse import solve

NOTHING_MM = 1e-4
"""What rounding leaves of a flow at the faces of a grid where its velocity is zero."""


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

    def support(self) -> Grid | None:
        """Its grid, if nothing goes on beyond that."""
        ends = [self.displacement.select(axis, end) for axis in (2, 3, 4) for end in (0, -1)]
        ending = self.outside == "zeros" or all(float(end.abs().max()) < NOTHING_MM for end in ends)
        return self.grid if ending else None

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
    """Solves ``x + u(x) = y`` for x at each point, to `inverse.TOLERANCE_MM` where there is such an x."""

    def __init__(self, forward: DisplacementField):
        self.forward = forward

    def __call__(self, points: Float[Tensor, "#b *n 3"]) -> Float[Tensor, "_ *n 3"]:
        """Where ``points`` come from."""
        targets = points.reshape(len(points), -1, 3)
        return solve(self.forward, targets, targets - self.forward.at(targets)).reshape(points.shape)

    def support(self) -> Grid | None:
        """The field's: what it leaves where it is comes from there."""
        return self.forward.support()

    def inverse(self) -> DisplacementField:
        """The field itself."""
        return self.forward

    def to(self, device: torch.device | str) -> "InverseDisplacement":
        """The same map on another device."""
        return InverseDisplacement(self.forward.to(device))
