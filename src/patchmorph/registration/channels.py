"""Further channels of the two images: as a user gives them, and averaged for all that takes one image."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from patchmorph.errors import PatchMorphError
from patchmorph.images.abstract import AbstractImage
from patchmorph.images.foreground import BACKGROUND, find_content, find_truncated_faces, foreground
from patchmorph.images.intensity import Curve, IntensityMap
from patchmorph.images.volume import MappedImage
from patchmorph.registration.acceptance import CONTRAST, IntensityAgreement
from patchmorph.registration.pair import AGREEMENT_POINTS, PreparedImage, PreparedPair
from patchmorph.spatial.grid import Grid

INVERTED = 1.0, 0.1
"""What intensities of 0 and 1 become where a channel is inverted: foreground stays foreground."""

RIM = 2
"""Points between the surface of the content and those in which channels are compared."""


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

    others: tuple[AbstractImage, ...]
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


def with_means(pair: PreparedPair) -> PreparedPair:
    """The pair whose images are the weighted means of their channels; a pair of one channel as it is.

    For the mean, a channel is inverted where bright in it is dark in the first one, as in T2 beside T1:
    otherwise the two would cancel.
    """
    if len(pair.weights) == 1:
        return pair
    first, *others = zip(_inside(pair.fixed), _inside(pair.moving), strict=True)
    inverted = [_is_opposite(torch.cat(first), torch.cat(other)) for other in others]
    fixed, moving = (_with_mean(side, pair.weights[1:], inverted) for side in (pair.fixed, pair.moving))
    return PreparedPair(fixed, moving, pair.weights)


def _inside(image: PreparedImage) -> list[Float[Tensor, " n"]]:
    """The channels at the points of a grid that lie inside the content of all; at the rim all are dark."""
    grid = image.content.grid(AGREEMENT_POINTS)
    points, spacing_mm = grid.points_world(), float(grid.spacing_mm.max())
    values = torch.cat([channel.sample(points, spacing_mm) for channel in image.channels], dim=1)
    outside = (~foreground(values).all(1, keepdim=True)).float()
    inside = functional.max_pool3d(outside, 2 * RIM + 1, stride=1, padding=RIM)[0, 0] == 0
    return [channel[inside] for channel in values[0]]


def _is_opposite(first: Float[Tensor, " n"], other: Float[Tensor, " n"]) -> bool:
    enough = len(first) >= AGREEMENT_POINTS
    return enough and CONTRAST.is_opposite(IntensityAgreement.of(first, other).linear_r2)


def _with_mean(image: PreparedImage, weights: tuple[float, ...], inverted: list[bool]) -> PreparedImage:
    first, *others = image.channels
    assert isinstance(first, MappedImage), "channels are averaged before an image is pulled through a map"
    falling = Curve(torch.tensor(INVERTED, device=image.original.grid.device), BACKGROUND)
    alike = tuple(
        other.mapped(falling) if is_opposite else other
        for other, is_opposite in zip(others, inverted, strict=True)
    )
    mean = first.mapped(Averaged(alike, weights))
    mean = mean.with_truncated_faces(find_truncated_faces(mean))
    return replace(image, image=mean, content=find_content(mean))
