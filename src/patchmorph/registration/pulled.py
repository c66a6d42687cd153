"""An image as a transform shows it."""

from typing import Union

from jaxtyping import Bool, Float
from torch import Tensor

from patchmorph.images.abstract import AbstractImage
from patchmorph.images.field_of_view import Face
from patchmorph.images.intensity import IntensityMap
from patchmorph.images.volume import MappedImage
from patchmorph.transforms.base import Transform


class PulledImage(AbstractImage):
    """``image(transform(x))`` at every point x, without a grid of its own.

    Args:
        image: normalised.
        transform: maps the world of this image to that of ``image``.
    """

    def __init__(self, image: Union[MappedImage, "PulledImage"], transform: Transform):
        self.image, self.transform, self.chunk_mm = image, transform, image.chunk_mm

    def sample(self, points_world: Float[Tensor, "#b *n 3"], spacing_mm: float) -> Float[Tensor, "_ c *n"]:
        """``image`` at the mapped points; points that are not mapped show nothing."""
        return self.image.sample(self.transform(points_world), spacing_mm)

    def in_field_of_view(self, points_world: Float[Tensor, "#b *n 3"]) -> Bool[Tensor, "_ *n"] | None:
        """Whether each mapped point lies inside all truncated faces."""
        return self.image.in_field_of_view(self.transform(points_world))

    def mapped(self, intensity_map: IntensityMap) -> "PulledImage":
        """The same view with mapped intensities."""
        return PulledImage(self.image.mapped(intensity_map), self.transform)

    @property
    def truncated_faces(self) -> tuple[Face, ...]:
        """Faces of the array of ``image``."""
        return self.image.truncated_faces
