"""Preparation of an image: what of it is registered, normalised, without what shows no tissue."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from patchmorph.errors import PatchMorphError
from patchmorph.images.canonical import canonical
from patchmorph.images.chunked import StoredImage
from patchmorph.images.foreground import (
    find_content,
    find_main_content,
    find_surroundings,
    find_truncated_faces,
)
from patchmorph.images.inpainting import Outside, inpainted
from patchmorph.images.intensity import Empty, Inside, Masked, NonZero
from patchmorph.images.padding import MAX_WINDOW
from patchmorph.images.volume import AbstractVolume, MappedImage
from patchmorph.progress import step
from patchmorph.registration.acceptance import MAX_BRAIN_WINDOW
from patchmorph.registration.brain import find_brain
from patchmorph.registration.channels import Channel, with_means
from patchmorph.registration.masks import Region, counted_region
from patchmorph.registration.pair import PreparedImage, PreparedPair
from patchmorph.workers import in_order


@dataclass(frozen=True)
class Selection:
    """What of an image counts.

    Attributes:
        mask: not zero inside what is registered, in the image's world; ``None``: the brain is found.
        ignored: not zero inside what is left out of the comparison, such as a lesion.
    """

    mask: StoredImage | None = None
    ignored: StoredImage | None = None

    def canonical(self) -> "Selection":
        """The same selection by masks in the order in which images are compared."""
        return Selection(*(mask and canonical(mask) for mask in (self.mask, self.ignored)))


EVERYTHING = Selection()

STRAY = "a few voxels far brighter than all others were filled from their surroundings"
DEFECTS = "a few voxels that show nothing were filled from their surroundings"
IGNORED = "what is ignored was filled from its surroundings"
FRAGMENTS = "small pieces apart from the rest were left out"
BRAIN_FOUND = "the brain was found in a head, the rest left out"
CUT = "the field of view cuts through the brain"


@torch.no_grad()
def prepare_pair(
    fixed: StoredImage,
    moving: StoredImage,
    brain_network: nn.Module | None = None,
    selections: tuple[Selection, Selection] = (EVERYTHING, EVERYTHING),
    channels: Sequence[Channel] = (),
) -> PreparedPair:
    """Normalise both images and keep what is registered of each.

    Args:
        fixed: one channel, any intensities.
        moving: likewise, on the same device.
        brain_network: finds the brain in images without a mask, on that device (see
            `patchmorph.networks.brain_mask`); ``None``: images show only what is to be registered.
        selections: of the fixed and the moving image.
        channels: further ones, of images on that device.

    Raises:
        PatchMorphError: an image is empty, not finite or has several channels, or a mask leaves nothing.
    """
    further = [tuple(getattr(channel, side) for channel in channels) for side in ("fixed", "moving")]
    sides = zip((fixed, moving), selections, further, strict=True)
    with step("prepare both images"):
        images = tuple(
            in_order(lambda side: prepare_as_given(*side, brain_network), sides, fixed.grid.device)
        )
    weights = tuple(float(channel.weight) for channel in channels)
    return with_means(PreparedPair(images[0], images[1], (1.0, *weights)))


def prepare_as_given(
    image: StoredImage,
    selection: Selection = EVERYTHING,
    further: tuple[StoredImage, ...] = (),
    brain_network: nn.Module | None = None,
) -> PreparedImage:
    """`prepare_image` of images in one storage order, whichever they were given in."""
    channels = tuple(canonical(channel) for channel in further)
    prepared = prepare_image(canonical(image), selection.canonical(), brain_network, channels)
    return replace(prepared, original=image)


def prepare_image(
    image: StoredImage,
    selection: Selection = EVERYTHING,
    brain_network: nn.Module | None = None,
    further: tuple[StoredImage, ...] = (),
) -> PreparedImage:
    """What is registered of an image and of its further channels, before these are averaged.

    What is kept of the image is kept of its channels. If that is all of it, a channel may still show a head,
    in which the brain is found.

    Args:
        image: as it was given.
        selection: the user's choice.
        brain_network: finds the brain where there is no mask.
        further: channels in the same world, each on a grid of its own.

    Raises:
        PatchMorphError: an image that cannot be used, or a mask that leaves nothing.
    """
    for given in (image, *further):
        if given.channels != 1:
            raise PatchMorphError(f"image must have one channel, got {given.channels} in {given.name}")
    view, notes, region = _tissue(image, selection, None, brain_network)
    content = region.content or find_content(view)
    views = [view.with_truncated_faces(find_truncated_faces(view))]
    notes += (CUT,) if views[0].truncated_faces else ()
    remarks = [f"{image.name}: {note}" for note in notes]
    for given in further:
        view, notes, _ = _tissue(given, selection, region, brain_network)
        views.append(view.with_truncated_faces(find_truncated_faces(view)))
        remarks += [f"{given.name}: {note}" for note in notes]
    read = [given for given in (image, *further, selection.mask, selection.ignored) if given is not None]
    return PreparedImage(
        image,
        views[0],
        content,
        (*(note for given in read for note in given.notes), *remarks),
        (
            *(doubt for given in read for doubt in given.doubts),
            *(f"{image.name}: {text}" for text in region.doubts),
        ),
        tuple(views) if further else (),
    )


def _tissue(
    image: StoredImage, selection: Selection, region: Region | None, brain_network: nn.Module | None
) -> tuple[MappedImage, tuple[str, ...], Region]:
    """What is registered of a channel, normalised, what was done to it, and the region.

    Args:
        image: as it was given.
        selection: the user's choice.
        region: that of the first channel; ``None``: this one is the first.
        brain_network: finds the brain where there is no mask.
    """
    view, notes = _normalized(image, MAX_WINDOW, selection)
    left_out: tuple[str, ...] = ()
    if region is None or not region.masks:
        region = _brain_region(view, brain_network) if region else _region(view, selection, brain_network)
        left_out = region.left_out
    if region.masks:
        view, more = _normalized(region.of(view), MAX_BRAIN_WINDOW)
        notes = (notes or more) + left_out
    elif brain_network is not None and _differ(image):
        view, notes = _normalized(image, MAX_BRAIN_WINDOW, selection)
        region = replace(region, content=None)
    return view, notes, region


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
    return defects if any(block.any() for _, block in defects.overview.blocks()) else None


def _differ(image: AbstractVolume) -> bool:
    """Whether the window of an image that shows a brain only is narrower than that of any image."""
    return image.window(MAX_BRAIN_WINDOW) != image.window(MAX_WINDOW)


def _region(image: MappedImage, selection: Selection, brain_network: nn.Module | None) -> Region:
    """What a mask keeps, or the brain, or the content without small separate pieces."""
    if selection.mask is not None:
        return counted_region(image, selection.mask.to(image.grid.device), brain_network)
    main = find_main_content(image)
    if main is None:
        return _brain_region(image, brain_network)
    pieces = Region((Masked(main, 0.5, min(main.spacing_mm)),), left_out=(FRAGMENTS,))
    brain = _brain_region(pieces.of(image), brain_network)
    return Region(pieces.masks + brain.masks, left_out=brain.left_out or pieces.left_out)


def _brain_region(image: MappedImage, brain_network: nn.Module | None) -> Region:
    """The brain in a head; everything, if the image shows a brain only."""
    if brain_network is None:
        return Region()
    content = find_content(image)
    brain = find_brain(brain_network, image, content)
    if brain is None:
        return Region(content=content)
    half = float(brain.values().max()) / 2
    return Region((Masked(brain, half, min(image.spacing_mm)),), left_out=(BRAIN_FOUND,))
