"""Finds the brain in an image that shows a whole head."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from patchmorph.images.foreground import Content, foreground
from patchmorph.images.volume import AbstractVolume, Image
from patchmorph.networks.brain_mask import PATCH_SIZE
from patchmorph.networks.contract import predict
from patchmorph.patches.extraction import extract
from patchmorph.registration.acceptance import BRAIN
from patchmorph.registration.morphology import fill_holes, largest_component
from patchmorph.spatial.grid import Grid, cube

SPACING_MM, RADIUS_MM = 2.75, 85.0
"""Spacing of the patch for content of this radius; in proportion for any other."""

INTENSITY_REMAPS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda values: values,
    lambda values: 1.05 - values,
    lambda values: (2 * values - 1).abs() + 0.1,
    lambda values: (torch.cos(2 * math.pi * values) + 1.1) / 2,
)
"""Test-time augmentation: predictions over these remaps of the content's intensities are averaged."""

MARGIN = 1
"""Voxels of the patch (2 to 2.5 mm for a human head) that the mask grows by: the other image may have been
stripped less tightly, and what is dark between brain and skull does no harm (docs/decisions/009)."""


@torch.no_grad()
def find_brain(network: nn.Module, image: AbstractVolume, content: Content) -> Image | None:
    """A mask of the brain, if a normalised image shows much else and the prediction is confident.

    One patch over the whole content is enough: 2 mm for a brain of usual size, 2.5 mm for its head.
    """
    if content.radius_mm < BRAIN.min_radius_mm:
        return None
    spacing_mm = SPACING_MM * content.radius_mm / RADIUS_MM
    patch = Grid.centered(cube(PATCH_SIZE), spacing_mm, content.center_world).to(image.grid.device)
    values = extract(image, patch, spacing_mm)
    inside = foreground(values)
    total = float(inside.sum())
    probabilities, largest = [], 0.0
    for remap in INTENSITY_REMAPS:
        remapped = torch.where(inside, remap(values), values).clamp(0, 1)
        probabilities.append(predict(network, remapped).sigmoid())
        component = largest_component(probabilities[-1] > 0.5)
        if float((component & inside).sum()) > BRAIN.max_brain_fraction * total:
            return None  # as most images of brains are rejected, whatever the other remaps show
        largest = max(largest, float((fill_holes(component) & inside).sum()) / total)
    probability = torch.cat(probabilities).mean(0, keepdim=True)
    brain = fill_holes(largest_component(probability > 0.5))
    fraction = float((brain & inside).sum()) / total
    if not BRAIN.accepts(fraction, largest, float(probability[brain].mean())):
        return None
    grown = functional.max_pool3d(probability * brain, 2 * MARGIN + 1, stride=1, padding=MARGIN)
    return Image(grown, patch, "brain")
