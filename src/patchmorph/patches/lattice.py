"""Patch positions at inference: a lattice that covers a box, aligned with one velocity grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.affine import constant_scaling
from patchmorph.spatial.grid import Grid, Shape, VoxelBox, VoxelIndex, triple

ALONE = 1.25
"""Voxels of two patches over those of one up to which two are better: each is computed on one core."""


@dataclass(frozen=True)
class PatchLattice:
    """Overlapping patches over a box of the world.

    Each patch covers a block of the same shape of one common velocity grid, so that predictions are assembled
    by slicing.

    Attributes:
        grid: the velocity grid, axis-aligned, at least one patch wide along each axis.
        patch: velocity voxels of a patch along each axis.
        rows: first velocity voxel of each patch; the patches of a row share their position along the first
            axis, up to jitter.
    """

    grid: Grid
    patch: Shape
    rows: tuple[tuple[VoxelIndex, ...], ...]

    @classmethod
    def cover(
        cls,
        box_world: Float[Tensor, "2 3"],
        spacing_mm: float,
        patch: Shape,
        overlap: float = 0.5,
        jitter: torch.Generator | None = None,
        inset: int = 0,
        device: torch.device | None = None,
    ) -> "PatchLattice":
        """The lattice whose patches cover ``box_world`` (lower and upper corner, RAS+ mm).

        Args:
            box_world: the box to cover.
            spacing_mm: voxel size of the velocity grid.
            patch: velocity voxels of a patch along each axis.
            overlap: minimum fraction of a patch that its neighbour covers too, from 0 to below 1.
            jitter: draws a random shift of each inner patch; the patches still cover the box.
            inset: velocity voxels at the rim of the box that need no patch.
            device: of the points; by default that of the box.
        """
        grid = Grid.covering(box_world, spacing_mm, patch)
        grid = grid if device is None else grid.to(device)
        axes = [_axis_starts(*sizes, overlap, inset) for sizes in zip(grid.shape, patch, strict=True)]
        rows = [
            tuple(_jittered((x, y, z), grid.shape, axes, patch, jitter) for y, z in product(*axes[1:]))
            for x in axes[0]
        ]
        return cls(grid, patch, tuple(rows))

    @property
    def starts(self) -> list[VoxelIndex]:
        """First velocity voxel of every patch."""
        return [start for row in self.rows for start in row]

    def block(self, start: VoxelIndex, origin: VoxelIndex = (0, 0, 0), factor: int = 1) -> tuple[slice, ...]:
        """Slices of the patch at ``start`` in a grid ``factor`` times finer that begins at ``origin``."""
        firsts = [factor * (a - b) for a, b in zip(start, origin, strict=True)]
        return tuple(slice(a, a + factor * n) for a, n in zip(firsts, self.patch, strict=True))

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
        upper = tuple(max(first) + n for first, n in zip(zip(*starts, strict=True), self.patch, strict=True))
        shape = triple(factor * (b - a) for a, b in zip(lower, upper, strict=True))
        offset = tuple(first - (factor - 1) / (2 * factor) for first in lower)
        finer = constant_scaling((1 / factor,) * 3, offset, self.grid.voxel_to_world.device)
        return lower, self.grid.framed(shape, finer)


def fitted_patch(
    box_world: Float[Tensor, "2 3"], spacing_mm: float, sides: Sequence[int], overlap: float, inset: int = 0
) -> Shape:
    """The patch, its sides among ``sides``, that covers a box with the fewest voxels of all patches.

    A single one counts as `ALONE` times its voxels. The longer of two sides that take as many voxels. The
    other arguments are those of `PatchLattice.cover`.
    """
    counts = Grid.covering(box_world, spacing_mm).shape

    def cost(patch: tuple[int, ...]) -> float:
        sizes = zip(counts, patch, strict=True)
        patches = math.prod(len(_axis_starts(max(n, side), side, overlap, inset)) for n, side in sizes)
        return patches * math.prod(patch) * (ALONE if patches == 1 else 1.0)

    return triple(min(product(sorted(sides, reverse=True), repeat=3), key=cost))


def _axis_starts(count: int, width: int, overlap: float, inset: int) -> list[int]:
    """First voxels of evenly spread patches that cover ``count`` voxels but for ``inset`` at either end."""
    covered = max(width, count - 2 * inset)
    first, slack = (count - covered) // 2, covered - width
    steps = math.ceil(slack / max(1, math.floor(width * (1 - overlap))))
    return [first + round(slack * k / steps) for k in range(steps + 1)] if steps else [first]


def _jittered(
    start: VoxelIndex,
    shape: tuple[int, ...],
    axes: list[list[int]],
    patch: Shape,
    generator: torch.Generator | None,
) -> VoxelIndex:
    """Shift inner patches by up to half of their overlap with the neighbours on both sides."""
    if generator is None:
        return start
    moved = []
    for first, count, firsts, width in zip(start, shape, axes, patch, strict=True):
        inner = firsts[0] < first < firsts[-1]
        stride = max((b - a for a, b in pairwise(firsts)), default=width)
        reach = (width - stride) // 2 if inner else 0
        shift = int(torch.randint(-reach, reach + 1, (1,), generator=generator)) if reach > 0 else 0
        moved.append(min(max(first + shift, 0), count - width))
    return triple(moved)
