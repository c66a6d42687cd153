"""Blending of local velocities into one continuous velocity grid, by a partition of unity."""

import functools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.memory import release, zeros
from patchmorph.patches.lattice import PatchLattice
from patchmorph.spatial.affine import on_device
from patchmorph.spatial.grid import Shape, VoxelBox, VoxelIndex

MIN_WEIGHT = 1e-4
"""Weight added everywhere in a patch: keeps the sum of weights positive at the rim of the lattice."""

PLANES = 64
"""Planes of a lattice's grid that are blended at a time."""


@functools.lru_cache(maxsize=8)
def window(patch: Shape, device: torch.device) -> Float[Tensor, "u v w"]:
    """Separable Hann window, positive everywhere."""
    x, y, z = (torch.hann_window(n + 2, periodic=False, device=device)[1:-1] for n in patch)
    return x[:, None, None] * y[:, None] * z + MIN_WEIGHT


class Blend:
    """The windowed velocities of patches, summed and divided by the windows of *all* patches of the lattice.

    A patch that was not added counts as zero velocity, as does what no patch covers. Only patches without
    content may be left out: the velocity within the content is then unaffected, and the field fades smoothly
    into the background.

    Args:
        lattice: places of the patches.
        with_squares: whether `variance` is asked for at the end.
    """

    def __init__(self, lattice: PatchLattice, with_squares: bool = False):
        self.lattice = lattice
        self.window = window(lattice.patch, lattice.grid.device)
        self.sum = zeros((1, 3, *lattice.grid.shape), lattice.grid.device)
        shape = lattice.grid.shape if with_squares else (0, 0, 0)
        self.square = torch.zeros(1, 1, *shape, device=lattice.grid.device)

    def add(self, starts: Sequence[VoxelIndex], velocities: Float[Tensor, "b 3 u v w"]) -> None:
        """Add each patch's velocity (mm, world axes) at its position in the lattice."""
        weighted = velocities * self.window
        for start, values in zip(starts, weighted, strict=True):
            self.sum[(0, slice(None), *self.lattice.block(start))] += values
        if self.square.numel():
            squares = (weighted * velocities).sum(1, keepdim=True)
            for start, square in zip(starts, squares, strict=True):
                self.square[(0, slice(None), *self.lattice.block(start))] += square

    def velocity(self, planes: slice = slice(None)) -> Float[Tensor, "1 3 x y z"]:
        """The blended velocity on the lattice's grid, or on some planes of it along the first axis."""
        return self.sum[:, :, planes] / total_weight(self.lattice, planes).clamp(min=MIN_WEIGHT)

    def smoothed(
        self, deviation: float, box: VoxelBox, fade: int, inset: int = 0
    ) -> Float[Tensor, "1 3 u v w"]:
        """The blended velocity in ``box``, smoothed, and falling to zero at its rim.

        Some planes after the other, so that what is held in memory are the sums and the result.

        Args:
            deviation: of the kernel, see `smooth`.
            box: of the lattice's grid.
            fade: voxels, see `rim`.
            inset: likewise.
        """
        found = zeros((1, 3, *box.shape), self.sum.device)
        for first in range(0, box.shape[0], PLANES):
            last = min(first + PLANES, box.shape[0])
            start, stop = box.start[0] + first, box.start[0] + last
            before, beyond = max(0, start - 1), min(stop + 1, self.sum.shape[2])
            smooth_planes = smooth(self.velocity(slice(before, beyond)), deviation)
            within = smooth_planes[:, :, start - before : stop - before, *box.slices[1:]]
            found[:, :, first:last] = within * rim(box.shape, fade, found.device, slice(first, last), inset)
            release()
        return found

    def variance(self) -> Float[Tensor, "1 1 x y z"]:
        """Variance of the velocities of overlapping patches at each point, mm².

        Zero where a single patch contributes: only overlaps of at least one half are informative everywhere.
        """
        weight = total_weight(self.lattice).clamp(min=MIN_WEIGHT)
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


def rim(
    shape: Shape, width: int, device: torch.device, planes: slice = slice(None), inset: int = 0
) -> Float[Tensor, "x y z"]:
    """A window over a velocity grid: one inside, falling to zero over ``width`` voxels.

    It is zero in the outer ``inset`` voxels, and at the first after them.

    A velocity that vanishes at the rim of its grid yields a displacement that vanishes there, so that
    "constant beyond the border" and "zero outside" (as in ITK) agree. ``planes``: those along the first axis.
    """
    profiles = []
    for count in shape:
        index = torch.arange(count)
        depth = (torch.minimum(index, count - 1 - index) - inset).clamp(min=0) / width
        profiles.append(torch.sin(depth.clamp(max=1) * torch.pi / 2) ** 2)
    x, y, z = on_device(torch.cat([profiles[0][planes], *profiles[1:]]), device).split(
        [len(profiles[0][planes]), *shape[1:]]
    )
    return x[:, None, None] * y[:, None] * z


def total_weight(lattice: PatchLattice, planes: slice = slice(None)) -> Float[Tensor, "x y z"]:
    """Sum of every patch's window on the lattice's grid, or on some planes of it along the first axis."""
    first, last, _ = planes.indices(lattice.grid.shape[0])
    weight = torch.zeros(last - first, *lattice.grid.shape[1:], device=lattice.grid.device)
    profile = window(lattice.patch, lattice.grid.device)
    for start in lattice.starts:
        lower, upper = max(start[0], first), min(start[0] + lattice.patch[0], last)
        if lower < upper:
            inner = (slice(lower - first, upper - first), *lattice.block(start)[1:])
            weight[inner] += profile[lower - start[0] : upper - start[0]]
    return weight
