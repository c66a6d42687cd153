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
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.sampling import sample_linear
from patchmorph.transforms.base import Transform

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
        moving: the same channels of the moving image.
        structure: weight of each voxel of ``fixed`` (see `patchmorph.objective.similarity.structure`).
        weights: of the channels.
    """

    def __init__(self, pair: PreparedPair, transform: Transform, grid: Grid, spacing_mm: float):
        channels = pair.compared
        images = torch.empty(1, 2, len(channels), *grid.shape, device=grid.device)
        for box, block in grid.blocks():
            for k, (fixed, moving, _) in enumerate(channels):
                images[(..., k, *box.slices)] = extract_pair(fixed, moving, block, spacing_mm, transform)
        self.fixed, self.moving = images.unbind(1)
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
            moved: voxels of the moving image that correspond to those of the block.
            objective: what each channel is compared by.
        """
        warped = sample_linear(self.moving, moved, "zeros")
        count = math.prod(moved.shape[1:4])
        total = torch.zeros(1, device=warped.device)
        channels = zip(self.fixed[block].split(1, 1), warped.split(1, 1), self.weights, strict=True)
        for k, (fixed, other, weight) in enumerate(channels):
            weighted = objective.dissimilarity(fixed, other) * self.structure[block][:, k].sum() / count
            total = total + weight * weighted
        return total
