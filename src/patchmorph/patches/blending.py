"""Blending of local velocities into one continuous velocity grid, by a partition of unity."""

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.patches.lattice import PatchLattice
from patchmorph.spatial.grid import Shape, VoxelIndex

MIN_WEIGHT = 1e-4
"""Weight added everywhere in a patch: keeps the sum of weights positive at the rim of the lattice."""


@functools.lru_cache(maxsize=8)
def window(width: int, device: torch.device) -> Float[Tensor, "w w w"]:
    """Separable Hann window, positive everywhere."""
    profile = torch.hann_window(width + 2, periodic=False, device=device)[1:-1]
    return profile[:, None, None] * profile[:, None] * profile + MIN_WEIGHT


class Blend:
    """The windowed velocities of patches, summed and divided by the windows of *all* patches of the lattice.

    A patch that was not added counts as zero velocity. Only patches without content may be left out: the
    velocity within the content is then unaffected, and the field fades smoothly into the background.
    """

    def __init__(self, lattice: PatchLattice):
        self.lattice = lattice
        self.window = window(lattice.width, lattice.grid.device)
        self.sum = torch.zeros(1, 3, *lattice.grid.shape, device=lattice.grid.device)
        self.square = torch.zeros(1, 1, *lattice.grid.shape, device=lattice.grid.device)

    def add(self, starts: Sequence[VoxelIndex], velocities: Float[Tensor, "b 3 w w w"]) -> None:
        """Add each patch's velocity (mm, world axes) at its position in the lattice."""
        weighted = velocities * self.window
        squares = (weighted * velocities).sum(1, keepdim=True)
        for start, values, square in zip(starts, weighted, squares, strict=True):
            self.sum[(0, slice(None), *self.lattice.block(start))] += values
            self.square[(0, slice(None), *self.lattice.block(start))] += square

    def velocity(self) -> Float[Tensor, "1 3 x y z"]:
        """The blended velocity on the lattice's grid."""
        return self.sum / total_weight(self.lattice)

    def variance(self) -> Float[Tensor, "1 1 x y z"]:
        """Variance of the velocities of overlapping patches at each point, mm².

        Zero where a single patch contributes: only overlaps of at least one half are informative everywhere.
        """
        weight = total_weight(self.lattice)
        mean = self.sum / weight
        return (self.square / weight - mean.square().sum(1, keepdim=True)).clamp(min=0)


def smooth(velocity: Float[Tensor, "1 c x y z"], deviation: float) -> Float[Tensor, "1 c x y z"]:
    """Convolve with a separable three-point kernel of the given standard deviation (voxels, at most 0.7)."""
    side = deviation**2 / 2
    assert 0 <= side <= 0.25, f"deviation must be at most 0.7 voxels, got {deviation}"
    for axis in (2, 3, 4):
        first, last = velocity.narrow(axis, 0, 1), velocity.narrow(axis, velocity.shape[axis] - 1, 1)
        padded = torch.cat([first, velocity, last], dim=axis)
        neighbours = padded.narrow(axis, 0, velocity.shape[axis]) + padded.narrow(
            axis, 2, velocity.shape[axis]
        )
        velocity = (1 - 2 * side) * velocity + side * neighbours
    return velocity


def rim(shape: Shape, width: int, device: torch.device) -> Float[Tensor, "x y z"]:
    """A window over a velocity grid: one inside, falling to zero over its outer ``width`` voxels.

    A velocity that vanishes at the rim of its grid yields a displacement that vanishes there, so that
    "constant beyond the border" and "zero outside" (as in ITK) agree.
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
