"""Regions of an image that show no tissue, or are left out, filled with the mean of what surrounds them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.images.abstract import AbstractImage
from patchmorph.images.intensity import IntensityMap
from patchmorph.images.volume import AbstractVolume, MappedImage
from patchmorph.spatial.grid import Grid

MIN_KNOWN = 0.3
"""Fraction of a neighbourhood that must be known for its mean to fill a voxel."""
DOUBLINGS = 8
"""Sizes of neighbourhoods that are tried: two voxels, and each twice as large as the one before."""


@dataclass(frozen=True)
class Outside(IntensityMap):
    """Set voxels to zero inside ``mask`` (0 or 1, on any grid), and the others to one if ``unit``."""

    mask: AbstractImage
    spacing_mm: float
    unit: bool = False

    def __call__(self, values: Float[Tensor, "1 c x y z"], grid: Grid) -> Float[Tensor, "1 c x y z"]:
        """The values outside the mask."""
        spacing_mm = max(self.spacing_mm, float(grid.spacing_mm.min()))
        outside = self.mask.sample(grid.points_world(), spacing_mm) <= 0.5
        return outside.float().expand_as(values) if self.unit else values * outside


@dataclass(frozen=True)
class Filled(IntensityMap):
    """Replace voxels inside a mask by the mean of the known ones in the smallest neighbourhood with enough.

    Attributes:
        known: the volume, zero inside the mask.
        share: one outside the mask, zero inside.
    """

    known: AbstractVolume
    share: AbstractVolume

    def __call__(self, values: Float[Tensor, "1 1 x y z"], grid: Grid) -> Float[Tensor, "1 1 x y z"]:
        """The values, replaced inside the mask."""
        points = grid.points_world()
        finest_mm = max(min(self.share.spacing_mm), float(grid.spacing_mm.min()))
        inside = self.share.sample(points, finest_mm)[0, 0] <= 0.5
        if not inside.any():
            return values
        points = points[:, inside]
        mean, is_open = torch.zeros_like(points[0, :, 0]), torch.ones_like(points[0, :, 0], dtype=torch.bool)
        for k in range(1, DOUBLINGS + 1):
            share = self.share.sample(points, finest_mm * 2**k)[0, 0]
            found = is_open & (share >= MIN_KNOWN)
            known = self.known.sample(points, finest_mm * 2**k)[0, 0]
            mean = torch.where(found, known / share.clamp(min=MIN_KNOWN), mean)
            is_open &= ~found
            if not is_open.any():
                break
        filled = values.clone()
        filled[0, 0, inside] = mean
        return filled


def inpainted(image: AbstractVolume, mask: AbstractImage) -> MappedImage:
    """``image`` with what ``mask`` (0 or 1, on any grid) covers filled from its surroundings.

    The mean over neighbourhoods of rising size is that of the pull-push algorithm (Gortler et al., SIGGRAPH
    1996), on the levels of the image's pyramid.
    """
    spacing_mm = min(image.spacing_mm)
    known, share = (image.mapped(Outside(mask, spacing_mm, unit)) for unit in (False, True))
    return image.mapped(Filled(known, share))
