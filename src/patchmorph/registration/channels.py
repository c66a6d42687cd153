"""Further channels of the two images: as a user gives them, and averaged for all that takes one image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.images.intensity import IntensityMap
from patchmorph.images.volume import MappedImage
from patchmorph.spatial.grid import Grid


@dataclass(frozen=True)
class Channel:
    """A further channel of both images, such as T2 beside T1, or a second fluorophore.

    Attributes:
        fixed: an image in the world of the fixed image, on any grid.
        moving: likewise of the moving image, in the same contrast as ``fixed``.
        weight: of its similarity in refinement, and in the mean that networks get; that of the images
            themselves is 1.

    Raises:
        PatchMorphError: a weight that is no number above 0.
    """

    fixed: Any
    moving: Any
    weight: float = 1.0

    def __post_init__(self) -> None:
        is_number = isinstance(self.weight, int | float) and not isinstance(self.weight, bool)
        if not (is_number and 0 < self.weight < math.inf):
            raise PatchMorphError(f"weight of a channel must be a number above 0, got {self.weight}")


@dataclass(frozen=True)
class Averaged(IntensityMap):
    """The weighted mean of the voxels, whose weight is 1, and of other images at the same points.

    Beyond a truncated face an image does not count.

    Attributes:
        others: normalised, in the same world, each on a grid of its own.
        weights: of ``others``.
    """

    others: tuple[MappedImage, ...]
    weights: tuple[float, ...]

    def __call__(self, values: Float[Tensor, "1 1 x y z"], grid: Grid) -> Float[Tensor, "1 1 x y z"]:
        """The mean, 0 to 1 as all images."""
        points, spacing_mm = grid.points_world(), float(grid.spacing_mm.min())
        total, sum_of_weights = values, values.new_ones(())
        for image, weight in zip(self.others, self.weights, strict=True):
            visible = image.in_field_of_view(points)
            counts = values.new_tensor(weight) if visible is None else weight * visible[:, None].float()
            total = total + counts * image.sample(points, spacing_mm)
            sum_of_weights = sum_of_weights + counts
        return total / sum_of_weights


def averaged(channels: Sequence[MappedImage], weights: Sequence[float]) -> MappedImage:
    """The weighted mean of several images on the grid of the first, whose weight is 1.

    Args:
        channels: normalised, in one world.
        weights: of all but the first.
    """
    first, *others = channels
    return first.mapped(Averaged(tuple(others), tuple(weights))) if others else first
