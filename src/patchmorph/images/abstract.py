"""The interface of images: an intensity at every point of the world."""

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float
from torch import Tensor

from patchmorph.spatial.grid import Grid


class AbstractImage(ABC):
    """An intensity at every point of the world.

    Contract: ``sample`` returns intensities without detail finer than ``spacing_mm``, and zero outside the
    image. A truncated face of the array cuts through the imaged object, so that zero beyond it does not mean
    background; ``in_field_of_view`` and ``truncation_normals`` describe these faces. Code outside
    ``images/`` uses this interface and never the array, so that an array in memory, a view with mapped
    intensities and a training selection are interchangeable.

    Attributes:
        chunk_mm: extent along the world axes of what is read at a time; ``None``: the image is in memory.
    """

    chunk_mm: tuple[float, float, float] | None = None

    @abstractmethod
    def sample(self, points_world: Float[Tensor, "#b *n 3"], spacing_mm: float) -> Float[Tensor, "_ c *n"]:
        """Intensity at ``points_world`` (RAS+ mm) without detail finer than ``spacing_mm``, zero outside."""

    def sample_grid(self, grid: Grid, spacing_mm: float) -> Float[Tensor, "_ c x y z"]:
        """`sample` at all points of ``grid``."""
        return self.sample(grid.points_world(), spacing_mm)

    def in_field_of_view(self, points_world: Float[Tensor, "#b *n 3"]) -> Bool[Tensor, "_ *n"] | None:
        """Whether each point lies inside all truncated faces; ``None`` if no face is truncated."""
        return None

    def truncation_normals(self) -> list[Float[Tensor, " 3"]]:
        """Outward unit normals of the truncated faces, in world axes."""
        return []
