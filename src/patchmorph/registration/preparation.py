"""Preparation of an image: what of it is registered, normalised, without what shows no tissue."""

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from patchmorph.errors import PatchMorphError
from patchmorph.images.canonical import canonical
from patchmorph.images.foreground import (
    find_content,
    find_main_content,
    find_surroundings,
    find_truncated_faces,
)
from patchmorph.images.inpainting import Outside, inpainted
from patchmorph.images.intensity import Empty, Inside, Masked, NonZero
from patchmorph.images.padding import MAX_WINDOW
from patchmorph.images.volume import AbstractVolume, Image, MappedImage
from patchmorph.progress import step
from patchmorph.registration.acceptance import MAX_BRAIN_WINDOW
from patchmorph.registration.brain import find_brain
from patchmorph.registration.masks import counted_region
from patchmorph.registration.pair import PreparedImage, PreparedPair
from patchmorph.workers import in_order


@dataclass(frozen=True)
class Selection:
    """What of an image counts.

    Attributes:
        mask: not zero inside what is registered, in the image's world; ``None``: the brain is found.
        ignored: not zero inside what is left out of the comparison, such as a lesion.
    """

    mask: Image | None = None
    ignored: Image | None = None

    def canonical(self) -> "Selection":
        """The same selection by masks in the order in which images are compared."""
        return Selection(*(mask and canonical(mask) for mask in (self.mask, self.ignored)))


EVERYTHING = Selection()

STRAY = "a few voxels far brighter than all others were filled from their surroundings"
DEFECTS = "a few voxels that show nothing were filled from their surroundings"
IGNORED = "what is ignored was filled from its surroundings"
FRAGMENTS = "small pieces apart from the rest were left out"


@torch.no_grad()
def prepare_pair(
    fixed: Image,
    moving: Image,
    brain_network: nn.Module | None = None,
    selections: tuple[Selection, Selection] = (EVERYTHING, EVERYTHING),
) -> PreparedPair:
    """Normalise both images and keep what is registered of each.

    Args:
        fixed: one channel, any intensities.
        moving: likewise, on the same device.
        brain_network: finds the brain in images without a mask, on that device (see
            `patchmorph.networks.brain_mask`); ``None``: images show only what is to be registered.
        selections: of the fixed and the moving image.

    Raises:
        PatchMorphError: an image is empty, not finite or has several channels, or a mask leaves nothing.
    """
    for image in (fixed, moving):
        if image.channels != 1:
            raise PatchMorphError(f"image must have one channel, got {image.channels} in {image.name}")
    sides = zip((fixed, moving), selections, strict=True)
    with step("prepare both images"):
        images = in_order(lambda side: _prepared(*side, brain_network), sides, fixed.grid.device)
        return PreparedPair(*images)


def _prepared(image: Image, selection: Selection, brain_network: nn.Module | None) -> PreparedImage:
    """`prepare_image` of the image in one storage order, whichever it was given in."""
    prepared = prepare_image(canonical(image), selection.canonical(), brain_network)
    return replace(prepared, original=image)


def prepare_image(
    image: Image, selection: Selection = EVERYTHING, brain_network: nn.Module | None = None
) -> PreparedImage:
    """What is registered of an image.

    Args:
        image: as it was given.
        selection: the user's choice.
        brain_network: finds the brain where there is no mask.

    Raises:
        PatchMorphError: an image that cannot be used, or a mask that leaves nothing.
    """
    tissue, notes = _normalized(image, MAX_WINDOW, selection)
    doubts: tuple[str, ...] = ()
    if selection.mask is not None:
        region = counted_region(tissue, selection.mask.to(image.grid.device), brain_network)
        tissue, doubts, left_out = region.tissue, region.doubts, ("outside of its mask left out",)
    else:
        tissue, left_out = _content(tissue, brain_network)
    if left_out:
        tissue, more = _normalized(tissue, MAX_BRAIN_WINDOW)
        notes = (notes or more) + left_out
    elif brain_network is not None and _differ(image):
        tissue, notes = _normalized(image, MAX_BRAIN_WINDOW, selection)
    content = find_content(tissue)
    faces = find_truncated_faces(tissue)
    notes += ("the field of view cuts through the brain",) if faces else ()
    read = [given for given in (image, selection.mask, selection.ignored) if given is not None]
    return PreparedImage(
        image,
        tissue.with_truncated_faces(faces),
        content,
        (*(note for given in read for note in given.notes), *(f"{image.name}: {note}" for note in notes)),
        (*(doubt for given in read for doubt in given.doubts), *(f"{image.name}: {text}" for text in doubts)),
    )


def _normalized(
    image: AbstractVolume, widest: float, selection: Selection = EVERYTHING
) -> tuple[MappedImage, tuple[str, ...]]:
    """A normalised view without stray bright voxels and what is ignored, and what was filled."""
    window = image.window(widest)
    view, notes = image.mapped(window), ()
    if image.background is None and window.background is not None:
        notes += (f"intensity {window.background:g} was taken for background",)
    if window.leaves_out and (defects := _defects(image.mapped(Empty(window)))) is not None:
        view = inpainted(view, defects)
        notes += (DEFECTS,)
    if not math.isinf(window.stray_above):
        view = inpainted(view, image.mapped(Inside(window.stray_above, window.empty_above)))
        notes += (STRAY,)
    if selection.ignored is not None:
        view = inpainted(view, selection.ignored.to(image.grid.device).mapped(NonZero()))
        notes += (IGNORED,)
    return view, notes


def _defects(empty: MappedImage) -> MappedImage | None:
    """A mask of the voxels that show nothing inside the imaged object, if there are any."""
    around = find_surroundings(empty)
    defects = empty.mapped(Outside(around, min(around.spacing_mm)))
    return defects if any(block.any() for _, block in defects.blocks()) else None


def _differ(image: AbstractVolume) -> bool:
    """Whether the window of an image that shows a brain only is narrower than that of any image."""
    return image.window(MAX_BRAIN_WINDOW) != image.window(MAX_WINDOW)


def _content(image: MappedImage, brain_network: nn.Module | None) -> tuple[MappedImage, tuple[str, ...]]:
    """The brain, or the content without small separate pieces, and what was left out."""
    notes: tuple[str, ...] = ()
    main = find_main_content(image)
    if main is not None:
        image, notes = image.mapped(Masked(main, 0.5, min(main.spacing_mm))), (FRAGMENTS,)
    brain = None if brain_network is None else find_brain(brain_network, image, find_content(image))
    if brain is not None:
        half = float(brain.values().max()) / 2
        image = image.mapped(Masked(brain, half, min(image.spacing_mm)))
        notes = ("the brain was found in a head, the rest left out",)
    return image, notes
