"""Foreground and background of normalised images, and the position of the foreground in the world."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from patchmorph.errors import PatchMorphError
from patchmorph.images.components import connected_components, on_faces
from patchmorph.images.field_of_view import FACES, Face
from patchmorph.images.volume import AbstractVolume, Image
from patchmorph.spatial.grid import Grid, triple

FOREGROUND = 0.06
"""Normalised intensity above which a voxel is foreground."""

BACKGROUND = 0.02
"""Normalised intensity up to which a voxel is background; values between the two thresholds are ambiguous."""

MARGIN = 0.05
"""Margin around the box of the content, as a fraction of its longest side."""

MIN_TRUNCATED_FRACTION = 0.04
"""Fraction of foreground voxels on a face of the array above which the face counts as truncated."""

LEVEL_VOXELS = 64
"""Voxels along the image's longest side in the pyramid level in which the content is measured."""

MIN_CONTENT_VOXELS = 8
"""Foreground voxels of that level below which an image cannot be registered."""

FRAGMENT_FRACTION = 0.08
"""Size of a separate piece of foreground, relative to the largest, below which it is a marker or
noise. The content of all images that this was tried on is one piece but for 0.1 % of it."""

MARKER_FRACTION, MARKER_BRIGHTNESS = 0.4, 1.3
"""The same for pieces whose mean intensity is that of the largest piece times this factor, at least."""


MAX_DEFECT_FRACTION = 0.03
"""Size of one defect inside an object, as a fraction of the array."""


CPU = torch.device("cpu")


@dataclass(frozen=True)
class Content:
    """The foreground of an image, in RAS+ mm, as numbers in the processor's memory.

    Attributes:
        center_world: float64 ``[1, 3]``, centre of mass of the foreground intensities.
        box_world: float64 ``[2, 3]``, corners of the box around the foreground, with a margin.
        radius_mm: root mean square distance of the foreground from its centroid: a size independent of pose.
        margin_mm: margin of the box around the foreground.
        device: of the image.
    """

    center_world: Float[Tensor, "1 3"]
    box_world: Float[Tensor, "2 3"]
    radius_mm: float
    margin_mm: float
    device: torch.device = CPU

    def grid(self, points: int) -> Grid:
        """An isotropic grid over the box with about ``points`` points along its longest side."""
        extent_mm = self.box_world[1] - self.box_world[0]
        spacing_mm = float(extent_mm.max()) / points
        shape = triple(int(length / spacing_mm) + 1 for length in extent_mm.tolist())
        return Grid.centered(shape, spacing_mm, self.box_world.sum(0, keepdim=True) / 2).to(self.device)


def find_content(image: AbstractVolume) -> Content:
    """The content of a normalised image, measured at a 64th of its longest side, whatever its size in mm.

    Raises:
        PatchMorphError: fewer than `MIN_CONTENT_VOXELS` voxels are foreground.
    """
    spacing_mm = _longest_mm(image) / LEVEL_VOXELS
    level = image.level(spacing_mm)
    values = level.values().float()
    weight = foreground(values)[0, 0] * values[0, 0].double()
    points = level.grid.points_world()[0].double()
    center = (weight[..., None] * points).sum((0, 1, 2)) / weight.sum()
    inside = points[weight > 0]
    if len(inside) < MIN_CONTENT_VOXELS:
        raise PatchMorphError(
            f"image must have content larger than a point, got {len(inside)} bright voxels of "
            f"{spacing_mm:.3g} mm in {image.name}"
        )
    square = (inside - inside.mean(0)).square().sum(-1).mean().expand(3)
    center, lower, upper, square = torch.stack([center, inside.amin(0), inside.amax(0), square]).cpu()
    margin = MARGIN * float((upper - lower).max())
    box = torch.stack([lower - margin, upper + margin])
    return Content(center[None], box, math.sqrt(float(square[0])), margin, level.grid.device)


def find_main_content(image: AbstractVolume) -> Image | None:
    """A mask of a normalised image's content without small separate pieces; ``None`` if there are none."""
    level = image.level(_longest_mm(image) / LEVEL_VOXELS)
    values = level.values().float()[0, 0].cpu().numpy()
    inside = values > FOREGROUND
    pieces, count = connected_components(inside, diagonal=True)
    if count < 2:
        return None
    sizes, sums = (np.bincount(pieces.ravel(), weight, count + 1) for weight in (None, values.ravel()))
    sizes[0] = 0
    means = sums / np.maximum(sizes, 1)
    is_marker = means > MARKER_BRIGHTNESS * means[sizes.argmax()]
    kept = sizes >= np.where(is_marker, MARKER_FRACTION, FRAGMENT_FRACTION) * sizes.max()
    if kept[1:].all():
        return None
    return _grown(kept[pieces], level.grid, f"content of {image.name}")


def find_surroundings(empty: AbstractVolume) -> Image:
    """A mask of what lies around the imaged object, from a mask of the voxels that show nothing.

    These are the pieces on the faces of the array and large ones; the rest are defects inside.
    """
    level = empty.level(_longest_mm(empty) / LEVEL_VOXELS)
    pieces, count = connected_components(level.values()[0, 0].cpu().numpy() > 0.5)
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    around = on_faces(pieces, count) | (sizes > MAX_DEFECT_FRACTION * pieces.size)
    around[0] = False
    return _grown(around[pieces], level.grid, empty.name)


def _grown(mask: np.ndarray, grid: Grid, name: str) -> Image:
    """A mask with the voxels around it, which are partly inside."""
    values = torch.from_numpy(mask)[None, None].float().to(grid.device)
    return Image(functional.max_pool3d(values, 3, stride=1, padding=1), grid, name)


def _longest_mm(image: AbstractVolume) -> float:
    return max(n * spacing for n, spacing in zip(image.grid.shape, image.spacing_mm, strict=True))


def find_truncated_faces(image: AbstractVolume) -> tuple[Face, ...]:
    """The faces of the array that cut through the content of a normalised image."""
    faces = [image.overview.face(face) for face in FACES]
    shown = foreground(torch.cat(faces).float()).cpu().split([len(face) for face in faces])
    fractions = [float(one.float().mean()) for one in shown]
    return tuple(face for face, part in zip(FACES, fractions, strict=True) if part > MIN_TRUNCATED_FRACTION)


def foreground(values: Float[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
    """Whether each normalised intensity is foreground."""
    return values > FOREGROUND
