"""The mean image of a cohort in its mean shape, from registrations to a common template."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.images.sharpening import sharpened
from patchmorph.images.volume import AbstractVolume, Image
from patchmorph.io.chunked import open_image
from patchmorph.io.stated import Stated
from patchmorph.io.transforms.formats import load_transform
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.averages import mean_shape
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.resample import resample

POSE_SPACING_MM = 4.0
CONTENT = 0.1
"""Points of the template at which poses are measured: their spacing, and the normalised intensity above
which there is tissue."""


@dataclass(frozen=True)
class Mapped:
    """Files of an image and of the map from the template's space to it, read one at a time.

    Attributes:
        path: of the image.
        stated: of the image.
        transform: file of the map; ``None``: the identity.
    """

    path: Path
    stated: Stated
    transform: Path | None

    def image(self) -> AbstractVolume:
        """The image, with intensities from 0 to 1 (see `normalizing_window`)."""
        return open_image(self.path, self.stated).normalized()

    def map(self) -> Transform:
        """The map: template → image, world."""
        return AffineTransform.identity() if self.transform is None else load_transform(self.transform)


def in_mean_shape(template: AbstractVolume, images: list[Mapped], sharpen: bool) -> Image:
    """The mean of images in their mean shape, on the grid of the template that they were registered to.

    Each image is interpolated once, through its map and the inverse of the mean map.

    Args:
        template: to which the images were registered.
        images: one or more.
        sharpen: see `sharpened`.

    Raises:
        PatchMorphError: a file that cannot be used, or an image without content.
    """
    mean = mean_shape((one.map() for one in images), template.grid, _content(template))
    to_mean = DisplacementField.tabulate(mean.inverse(), template.grid)
    image = mean_image(((one.image(), one.map() @ to_mean) for one in images), template.grid)
    return Image(sharpened(image.data, image.spacing_mm), image.grid) if sharpen else image


def mean_image(images: Iterable[tuple[AbstractVolume, Transform]], grid: Grid) -> Image:
    """The mean of one or more images, each resampled on ``grid`` through its map."""
    total, count = torch.zeros(1, 1, *grid.shape), 0
    for image, transform in images:
        total += resample(image, transform, grid).data
        count += 1
    return Image(total / count, grid)


def _content(template: AbstractVolume) -> Float[Tensor, "1 n 3"]:
    """Points of the template where there is tissue, RAS+ mm."""
    level = template.normalized().level(POSE_SPACING_MM)
    return level.grid.points_world()[:, level.values()[0, 0] > CONTENT]
