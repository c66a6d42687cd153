"""The faces of an array that cut through the imaged object."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patchmorph.images.abstract import AbstractImage
from patchmorph.spatial.grid import Grid

Face = tuple[int, int]
"""A face of an array: its axis, and 0 for the first or 1 for the last voxels along it."""
FACES: tuple[Face, ...] = tuple((axis, side) for axis in range(3) for side in (0, 1))


class Bounded(AbstractImage):
    """An image that ends at the faces of an array.

    Attributes:
        truncated_faces: faces of ``field_of_view`` that cut through the imaged object.
        field_of_view: grid whose faces bound the image.
    """

    truncated_faces: tuple[Face, ...]
    field_of_view: Grid

    def in_field_of_view(self, points_world: Float[Tensor, "#b *n 3"]) -> Bool[Tensor, "_ *n"] | None:
        """Whether each point lies inside all truncated faces (see `AbstractImage`)."""
        if not self.truncated_faces:
            return None
        voxel = self.field_of_view.to_voxel(points_world)
        inside = torch.ones_like(voxel[..., 0], dtype=torch.bool)
        for axis, side in self.truncated_faces:
            coordinate = voxel[..., axis]
            inside &= coordinate < self.field_of_view.shape[axis] - 0.5 if side else coordinate > -0.5
        return inside

    def truncation_normals(self) -> list[Float[Tensor, " 3"]]:
        """Outward unit normals of the truncated faces, in world axes."""
        columns = self.field_of_view.voxel_to_world[0, :3, :3].T
        return [(2 * side - 1) * columns[axis] / columns[axis].norm() for axis, side in self.truncated_faces]
