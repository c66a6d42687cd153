"""Many local velocities into one continuous velocity grid: a partition of unity."""

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.patches.lattice import PatchLattice, Start
from patchmorph.spatial.grid import Shape

FLOOR = 1e-4
"""Weight at a patch's outermost corner: keeps the sum of weights positive on the rim of the lattice."""


@functools.lru_cache(maxsize=8)
def window(width: int, device: torch.device) -> Float[Tensor, "w w w"]:
    """Separable Hann window, positive everywhere."""
    profile = torch.hann_window(width + 2, periodic=False, device=device)[1:-1]
    return profile[:, None, None] * profile[:, None] * profile + FLOOR


class Blend:
    """Sums windowed patches, then divides by the windows of *all* patches of the lattice.

    A patch that was never added counts as zero velocity. It shares no voxel with the content, so leaving
    it out changes nothing there, while the field still fades smoothly into the empty space.
    """

    def __init__(self, lattice: PatchLattice):
        self.lattice = lattice
        self.window = window(lattice.width, lattice.grid.device)
        self.sum = torch.zeros(1, 3, *lattice.grid.shape, device=lattice.grid.device)
        self.square = torch.zeros(1, 1, *lattice.grid.shape, device=lattice.grid.device)

    def add(self, starts: Sequence[Start], velocities: Float[Tensor, "b 3 w w w"]) -> None:
        """Put each patch's velocity (mm, world axes) in its place."""
        weighted = velocities * self.window
        squares = (weighted * velocities).sum(1, keepdim=True)
        for start, values, square in zip(starts, weighted, squares, strict=True):
            self.sum[(0, slice(None), *self.lattice.block(start))] += values
            self.square[(0, slice(None), *self.lattice.block(start))] += square

    def velocity(self) -> Float[Tensor, "1 3 x y z"]:
        """The blended velocity on the lattice's grid."""
        return self.sum / total_weight(self.lattice)

    def variance(self) -> Float[Tensor, "1 1 x y z"]:
        """How far patches that overlap are from agreeing, mm²: the variance of their velocities at a point.

        Zero where one patch stands alone: only overlaps of a half or more say something everywhere.
        """
        weight = total_weight(self.lattice)
        mean = self.sum / weight
        return (self.square / weight - mean.square().sum(1, keepdim=True)).clamp(min=0)


def smooth(velocity: Float[Tensor, "1 c x y z"], deviation: float) -> Float[Tensor, "1 c x y z"]:
    """Convolve with a separable three-point kernel of the given standard deviation (voxels, at most 0.7)."""
    share = deviation**2 / 2
    assert 0 <= share <= 0.25, "three points hold a standard deviation of at most 0.7 voxels"
    for axis in (2, 3, 4):
        first, last = velocity.narrow(axis, 0, 1), velocity.narrow(axis, velocity.shape[axis] - 1, 1)
        padded = torch.cat([first, velocity, last], dim=axis)
        neighbours = padded.narrow(axis, 0, velocity.shape[axis]) + padded.narrow(
            axis, 2, velocity.shape[axis]
        )
        velocity = (1 - 2 * share) * velocity + share * neighbours
    return velocity


def rim(shape: Shape, width: int, device: torch.device) -> Float[Tensor, "x y z"]:
    """A window over a velocity grid: one inside, falling to zero over its outer ``width`` voxels.

    A velocity that vanishes at the rim of its grid gives a displacement that does, and then "constant beyond
    the border" and "zero outside" (as in ITK) are the same.
    """
    weight = torch.ones((), device=device)
    for axis, count in enumerate(shape):
        index = torch.arange(count, device=device)
        depth = torch.minimum(index, count - 1 - index) / width
        profile = torch.sin(depth.clamp(max=1) * torch.pi / 2) ** 2
        weight = weight * profile.reshape([-1 if k == axis else 1 for k in range(3)])
    return weight


def total_weight(lattice: PatchLattice) -> Float[Tensor, "x y z"]:
    """Sum of every patch's window on the lattice's grid."""
    weight = torch.zeros(lattice.grid.shape, device=lattice.grid.device)
    for start in lattice.starts:
        weight[lattice.block(start)] += window(lattice.width, lattice.grid.device)
    return weight
