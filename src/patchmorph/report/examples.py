"""Patches as the networks of a training are given them, scale by scale."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from markupsafe import Markup

from patchmorph.errors import PatchMorphError
from patchmorph.images.foreground import find_content
from patchmorph.images.volume import AbstractVolume
from patchmorph.io.images import load_image
from patchmorph.patches.nested import nested_chain
from patchmorph.report.embedding import jpeg_url
from patchmorph.spatial.grid import Grid
from patchmorph.training.config import TrainingConfig
from patchmorph.training.data.subjects import find_subjects

IMAGES = 2
SIDE = 192
"""Pixels, at least."""


@dataclass(frozen=True)
class Example:
    """The middle axial plane of a patch.

    Attributes:
        title: which image, and the size of the voxels.
        url: its picture as an address.
    """

    title: str
    url: Markup


@torch.no_grad()
def example_patches(config: TrainingConfig) -> tuple[list[list[Example]], str]:
    """The nested patches around the centre of each of the first images, or why there are none."""
    try:
        subjects = find_subjects(config)[:IMAGES]
        images = [load_image(subject.image).normalized() for subject in subjects]
        return [list(_examples(image, config)) for image in images], ""
    except PatchMorphError as error:
        return [], str(error)


def _examples(image: AbstractVolume, config: TrainingConfig) -> Iterator[Example]:
    spacings, size = list(config.model.spacings_mm), config.model.patch_size
    middle = torch.zeros(1, len(spacings) - 1, 3)
    chain = nested_chain(find_content(image).center_world, middle, size, spacings)
    for spacing, grid in zip(spacings, chain, strict=True):
        title = f"{image.name.rpartition('/')[2]}: {size}³ voxels of {spacing:g} mm"
        yield Example(title, jpeg_url(_plane(image, grid)))


def _plane(image: AbstractVolume, grid: Grid) -> UInt8[np.ndarray, "v u 3"]:
    """The middle axial plane of a patch, right to the right and anterior up."""
    middle = grid.crop((0, 0, grid.shape[2] // 2), (*grid.shape[:2], 1))
    values = image.sample_grid(middle, float(grid.spacing_mm.max()))[0, 0, :, :, 0]
    pixels = (255 * values.clamp(0, 1)).round().to(torch.uint8).T.flip(0).numpy()
    times = -(-SIDE // max(pixels.shape))
    return np.repeat(np.kron(pixels, np.ones((times, times), np.uint8))[..., None], 3, axis=2)
