"""Where in the world an image has something to show."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.images.in_memory import Face, Image

THRESHOLD = 0.06
"""Normalised intensity above which a voxel counts as content."""

MARGIN = 0.05
"""Room around the content's box, as a share of its longest side."""

CUT = 0.04
"""Share of a face of the array that shows content where the content goes on beyond it."""

LEAST_VOXELS = 8
"""Fewer voxels of a 64th of the image's longest side are no content to register."""


@dataclass(frozen=True)
class Content:
    """The foreground of an image, in RAS+ mm.

    Attributes:
        center_world: float64 ``[1, 3]``, centre of mass of the intensities.
        box_world: float64 ``[2, 3]``, corners of the box around the foreground, with a margin.
        radius_mm: root mean square distance of the foreground from its middle. Its size, whatever its pose.
        margin_mm: room around the foreground in the box.
    """

    center_world: Float[Tensor, "1 3"]
    box_world: Float[Tensor, "2 3"]
    radius_mm: float
    margin_mm: float


def find_content(image: Image) -> Content:
    """The content of a normalised image, seen at a 64th of its longest side, so in no unit.

    Raises:
        PatchMorphError: nothing stands out of the background, or nothing larger than a point.
    """
    longest = max(n * spacing for n, spacing in zip(image.grid.shape, image.spacing_mm, strict=True))
    level = image.level(longest / 64)
    weight = foreground(level.data.float())[0, 0] * level.data[0, 0].double()
    points = level.grid.points_world()[0].double()
    center = (weight[..., None] * points).sum((0, 1, 2)) / weight.sum()
    inside = points[weight > 0]
    if len(inside) < LEAST_VOXELS:
        raise PatchMorphError(
            f"image must have content larger than a point, got {len(inside)} bright voxels of "
            f"{longest / 64:.3g} mm in {image.name}"
        )
    lower, upper = inside.amin(0), inside.amax(0)
    margin = MARGIN * float((upper - lower).max())
    radius = float((inside - inside.mean(0)).square().sum(-1).mean().sqrt())
    box = torch.stack([lower - margin, upper + margin])
    return Content(center[None], box, radius, margin)


def find_cuts(image: Image) -> tuple[Face, ...]:
    """The faces of the array of a normalised image that cut through its content."""
    shown = foreground(image.data[0, 0].float())
    faces = [(axis, side) for axis in range(3) for side in (0, 1)]
    return tuple((a, side) for a, side in faces if float(shown.select(a, -side).float().mean()) > CUT)


def foreground(values: Float[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
    """Which normalised intensities are content."""
    return values > THRESHOLD
