"""The training images, ready to be sampled in batches.

Images of different shapes are padded with zeros (what lies outside anyway) and stacked, one stack a pyramid
level, as uint8 on the device. A batch of pairs is a gather from the stacks: float32 copies of the batch's
volumes live for the length of a step, and grow with the images.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from patchmorph.registration.content import find_content
from patchmorph.spatial.affine import apply_affine, invert_affine
from patchmorph.spatial.image import Image
from patchmorph.spatial.sampling import sample_linear


class Cohort:
    """Stacks of N images at given resolutions.

    Attributes:
        centers_world: float64 ``[N, 3]``, centres of mass, RAS+ mm.
    """

    def __init__(self, images: Sequence[Image], spacings_mm: Sequence[float], device: torch.device):
        levels: dict[float, list[Image]] = {spacing: [] for spacing in spacings_mm}
        centers = []
        for image in images:
            normalized = image.to(device).normalized()
            centers.append(find_content(normalized).center_world[0])
            for spacing, stack in levels.items():
                level = normalized.level(spacing)
                stack.append(Image((level.data * 255).round().to(torch.uint8), level.grid, image.name))
        self.centers_world = torch.stack(centers)
        self.stacks = {spacing: _padded([level.data for level in stack]) for spacing, stack in levels.items()}
        self.world_to_voxel = {
            spacing: torch.cat([invert_affine(level.grid.voxel_to_world) for level in stack])
            for spacing, stack in levels.items()
        }

    def __len__(self) -> int:
        return len(self.centers_world)

    def select(self, index: Int[Tensor, " b"]) -> "Selection":
        """The images at ``index``, as one batched source."""
        return Selection(self, index)


class Selection:
    """A batch of images of a cohort; an `ImageSource` for the cohort's spacings."""

    def __init__(self, cohort: Cohort, index: Int[Tensor, " b"]):
        self.cohort = cohort
        self.index = index
        self._volumes: dict[float, Tensor] = {}

    def sample(self, points_world: Float[Tensor, "b *n 3"], spacing_mm: float) -> Float[Tensor, "b 1 *n"]:
        """Intensities from 0 to 1; zero outside."""
        if spacing_mm not in self._volumes:
            self._volumes[spacing_mm] = self.cohort.stacks[spacing_mm][self.index].float() / 255
        voxel = apply_affine(self.cohort.world_to_voxel[spacing_mm][self.index], points_world)
        return sample_linear(self._volumes[spacing_mm], voxel, outside="zeros")


def _padded(volumes: list[UInt8[Tensor, "1 1 _ _ _"]]) -> UInt8[Tensor, "n 1 x y z"]:
    shape = [max(volume.shape[axis] for volume in volumes) for axis in (2, 3, 4)]
    return torch.cat(
        [
            functional.pad(
                volume, [n for axis in (4, 3, 2) for n in (0, shape[axis - 2] - volume.shape[axis])]
            )
            for volume in volumes
        ]
    )
