"""Patch positions at inference: a lattice that covers a box, aligned with one velocity grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.affine import constant, from_linear
from patchmorph.spatial.grid import Grid, VoxelBox, VoxelIndex, triple


@dataclass(frozen=True)
class PatchLattice:
    """Overlapping patches over a box of the world.

    Each patch covers a block of ``width``³ voxels of one common velocity grid, so that predictions are
    assembled by slicing.

    Attributes:
        grid: the velocity grid, axis-aligned, at least one patch wide along each axis.
        width: velocity voxels along each side of a patch.
        rows: first velocity voxel of each patch; the patches of a row share their position along the first
            axis, up to jitter.
    """

    grid: Grid
    width: int
    rows: tuple[tuple[VoxelIndex, ...], ...]

    @classmethod
    def cover(
        cls,
        box_world: Float[Tensor, "2 3"],
        spacing_mm: float,
        width: int,
        overlap: float = 0.5,
        jitter: torch.Generator | None = None,
    ) -> "PatchLattice":
        """The lattice whose patches cover ``box_world`` (lower and upper corner, RAS+ mm).

        Args:
            box_world: the box to cover.
            spacing_mm: voxel size of the velocity grid.
            width: velocity voxels along each side of a patch.
            overlap: minimum fraction of a patch that its neighbour covers too, from 0 to below 1.
            jitter: draws a random shift of each inner patch; the patches still cover the box.
        """
        grid = Grid.covering(box_world, spacing_mm, width)
        axes = [_axis_starts(count, width, overlap) for count in grid.shape]
        rows = [
            tuple(_jittered((x, y, z), grid.shape, axes, width, jitter) for y, z in product(*axes[1:]))
            for x in axes[0]
        ]
        return cls(grid, width, tuple(rows))

    @property
    def starts(self) -> list[VoxelIndex]:
        """First velocity voxel of every patch."""
        return [start for row in self.rows for start in row]

    def block(self, start: VoxelIndex, origin: VoxelIndex = (0, 0, 0), factor: int = 1) -> tuple[slice, ...]:
        """Slices of the patch at ``start`` in a grid ``factor`` times finer that begins at ``origin``."""
        firsts = [factor * (a - b) for a, b in zip(start, origin, strict=True)]
        return tuple(slice(first, first + factor * self.width) for first in firsts)

    def trim(self, box_world: Float[Tensor, "2 3"]) -> tuple[VoxelBox, Grid]:
        """The part of the velocity grid that contains a box: its voxels, and its grid.

        A lattice is at least one patch wide, so a coarse lattice extends far beyond the box that it covers.
        """
        voxel = self.grid.to_voxel(box_world[None])[0]
        lower = triple(max(0, math.floor(first)) for first in voxel.amin(0).tolist())
        upper = triple(
            min(count, math.ceil(last) + 1)
            for last, count in zip(voxel.amax(0).tolist(), self.grid.shape, strict=True)
        )
        box = VoxelBox(lower, upper)
        return box, self.grid.crop(lower, box.shape)

    def region(self, starts: Sequence[VoxelIndex], factor: int) -> tuple[VoxelIndex, Grid]:
        """The bounding box of patches: its first velocity voxel, and its grid, ``factor`` times finer."""
        lower = triple(min(first) for first in zip(*starts, strict=True))
        upper = tuple(max(first) + self.width for first in zip(*starts, strict=True))
        shape = triple(factor * (b - a) for a, b in zip(lower, upper, strict=True))
        linear = torch.eye(3, dtype=torch.float64, device=self.grid.device) / factor
        offset = tuple(first - (factor - 1) / (2 * factor) for first in lower)
        finer = from_linear(linear[None], constant(offset, self.grid.device)[None])
        return lower, Grid(shape, self.grid.voxel_to_world @ finer)


def _axis_starts(count: int, width: int, overlap: float) -> list[int]:
    """First voxels of evenly spread patches that cover ``count`` voxels."""
    slack = count - width
    steps = math.ceil(slack / max(1, math.floor(width * (1 - overlap))))
    return [round(slack * k / steps) for k in range(steps + 1)] if steps else [0]


def _jittered(
    start: VoxelIndex,
    shape: tuple[int, ...],
    axes: list[list[int]],
    width: int,
    generator: torch.Generator | None,
) -> VoxelIndex:
    """Shift inner patches by up to half of their overlap with the neighbours on both sides."""
    if generator is None:
        return start
    moved = []
    for first, count, firsts in zip(start, shape, axes, strict=True):
        inner = 0 < first < count - width
        stride = max((b - a for a, b in pairwise(firsts)), default=width)
        reach = (width - stride) // 2 if inner else 0
        shift = int(torch.randint(-reach, reach + 1, (1,), generator=generator)) if reach > 0 else 0
        moved.append(min(max(first + shift, 0), count - width))
    return triple(moved)
