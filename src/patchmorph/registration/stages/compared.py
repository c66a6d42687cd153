"""The channels of a pair on the grid of a scale, as refinement compares them patch by patch."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patchmorph.images.foreground import foreground
from patchmorph.objective.objective import Objective
from patchmorph.objective.similarity import structure
from patchmorph.patches.extraction import extract_pair
from patchmorph.registration.pair import PreparedPair
from patchmorph.spatial.affine import constant_scaling
from patchmorph.spatial.grid import Grid, triple
from patchmorph.spatial.sampling import sample_linear
from patchmorph.transforms.base import Transform

FINENESS = 2
"""Voxels of the moving image a voxel of the grid, along each axis. Each comparison interpolates it a
second time, and the blur of coarse voxels biases the map: 0.002 less aseg Dice (docs/decisions/017)."""
MAX_FINE_VOXELS = 2**28
"""Voxels of the moving image, at most: 1 GiB. A larger one is as coarse as the grid."""

Block = tuple[slice, ...]
"""An index into ``[1, C, X, Y, Z]``."""
EVERYTHING = (slice(None),) * 5


class ComparedVolumes:
    """Both images of a pair in memory, over the box that a grid covers.

    Args:
        pair: the images.
        transform: the map so far, by which the moving image is warped.
        grid: of the voxels.
        spacing_mm: of ``grid``.

    Attributes:
        fixed: ``[1, C, X, Y, Z]``, one channel or several.
        fineness: voxels of ``moving`` a voxel of ``fixed``, along each axis.
        moving: the same channels of the moving image, from the same first voxel on.
        structure: weight of each voxel of ``fixed`` (see `patchmorph.objective.similarity.structure`).
        weights: of the channels.
    """

    def __init__(self, pair: PreparedPair, transform: Transform, grid: Grid, spacing_mm: float):
        channels = pair.compared
        voxels = len(channels) * math.prod(grid.shape)
        n = self.fineness = FINENESS if voxels * FINENESS**3 <= MAX_FINE_VOXELS else 1
        self.fixed = torch.empty(1, len(channels), *grid.shape, device=grid.device)
        self.moving = torch.empty(1, len(channels), *(n * count for count in grid.shape), device=grid.device)
        scaling = constant_scaling((1 / n,) * 3, (0.0,) * 3, grid.voxel_to_world.device)
        for box, block in grid.blocks():
            fine = block.framed(triple(n * count for count in block.shape), scaling)
            inside = tuple(slice(n * side.start, n * side.stop) for side in box.slices)
            for k, (fixed, moving, _) in enumerate(channels):
                images = extract_pair(fixed, moving, fine, spacing_mm, transform)
                self.fixed[(..., k, *box.slices)] = images[:, 0, ::n, ::n, ::n]
                self.moving[(..., k, *inside)] = images[:, 1]
        self.structure = torch.cat([structure(channel) for channel in self.fixed.split(1, 1)], dim=1)
        self.weights = tuple(channel.weight for channel in channels)

    def content(self, block: Block = EVERYTHING) -> Bool[Tensor, "1 1 u v w"]:
        """Whether any channel of the fixed image is foreground at each voxel of a block."""
        return foreground(self.fixed[block]).any(1, keepdim=True)

    def dissimilarity(
        self, block: Block, moved: Float[Tensor, "1 u v w 3"], objective: Objective
    ) -> Float[Tensor, " 1"]:
        """The weighted sum of the channels' dissimilarities in a block, as a mean over its voxels.

        Args:
            block: of the fixed image.
            moved: voxels of the grid, not whole ones, where the moving image shows what the block shows.
            objective: what each channel is compared by.
        """
        warped = sample_linear(self.moving, self.fineness * moved, "zeros")
        count = math.prod(moved.shape[1:4])
        total = torch.zeros(1, device=warped.device)
        channels = zip(self.fixed[block].split(1, 1), warped.split(1, 1), self.weights, strict=True)
        for k, (fixed, other, weight) in enumerate(channels):
            weighted = objective.dissimilarity(fixed, other) * self.structure[block][:, k].sum() / count
            total = total + weight * weighted
        return total
