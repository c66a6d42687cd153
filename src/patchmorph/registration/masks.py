"""A user's mask: what of an image it keeps, what lies in its holes, and whether it is doubtful."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchmorph.errors import PatchMorphError
from patchmorph.images.abstract import AbstractImage
from patchmorph.images.chunked import StoredImage
from patchmorph.images.foreground import Content, find_content, foreground
from patchmorph.images.inpainting import inpainted
from patchmorph.images.intensity import Masked, NonZero
from patchmorph.images.volume import Image, MappedImage
from patchmorph.registration.acceptance import MIN_MASKED_FRACTION
from patchmorph.registration.brain import find_brain
from patchmorph.registration.morphology import closed, fill_holes, grown, opened

POINTS = 96
"""Points along the longest side of the content's box in which masks are compared with the content."""

CLOSING = 0.35
"""Radius of the closing that tells a bite out of a mask (a lesion at the surface) from what lies outside, in
radii of the content: 20 mm for a human brain."""

RIM, MIN_BITE = 0.12, 0.06
"""Width of the rim of a brain that a mask may miss, and half the width of bites, in the same unit: 7 and
3.6 mm. Masks made of labels lack the fluid around the brain, and a rim missing in one image costs Dice."""

OUTSIDE = "outside of its mask left out"


@dataclass(frozen=True)
class Region:
    """What is registered of an image and of its further channels.

    Attributes:
        masks: set what lies outside to zero.
        holes: filled from their surroundings before.
        left_out: what lies outside, one sentence each; none: nothing does.
        doubts: why a mask may be another than the user meant.
        content: of the image, if it was measured and nothing is left out.
    """

    masks: tuple[Masked, ...] = ()
    holes: AbstractImage | None = None
    left_out: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    content: Content | None = None

    def of(self, image: MappedImage) -> MappedImage:
        """The image, zero outside the region, with its holes filled."""
        return (image if self.holes is None else inpainted(image, self.holes)).mapped(*self.masks)


@dataclass(frozen=True)
class _Union(AbstractImage):
    first: AbstractImage
    second: AbstractImage

    def sample(self, points_world: Float[Tensor, "#b *n 3"], spacing_mm: float) -> Float[Tensor, "_ c *n"]:
        values = (mask.sample(points_world, spacing_mm) for mask in (self.first, self.second))
        return torch.maximum(*values)


@dataclass(frozen=True)
class _Difference(AbstractImage):
    whole: AbstractImage
    part: AbstractImage

    def sample(self, points_world: Float[Tensor, "#b *n 3"], spacing_mm: float) -> Float[Tensor, "_ c *n"]:
        whole, part = (mask.sample(points_world, spacing_mm) for mask in (self.whole, self.part))
        return torch.minimum(whole, 1 - part)


def counted_region(image: MappedImage, mask: StoredImage, brain_network: nn.Module | None) -> Region:
    """What ``mask`` keeps of a normalised image.

    Holes of the mask are left out of the comparison: there the image is filled from its surroundings. The
    rest outside becomes zero. If the image shows a brain only, then bites out of the mask (a lesion at the
    surface) count as holes, and a rim of the brain that the mask misses stays.

    Args:
        image: normalised.
        mask: not zero inside, in the image's world.
        brain_network: tells a head from a brain.

    Raises:
        PatchMorphError: nothing is left.
    """
    inside = mask.mapped(NonZero())
    content = find_content(image)
    grid = content.grid(POINTS)
    points, spacing_mm = grid.points_world(), float(grid.spacing_mm.max())
    kept = inside.sample(points, spacing_mm) > 0.5
    shown = foreground(image.sample(points, spacing_mm))
    if not (kept & shown).any():
        raise PatchMorphError(f"mask must keep some of the image, got nothing of {image.name}")
    brain = None if brain_network is None else find_brain(brain_network, image, content)
    whole = shown if brain is None else shown & (brain.sample(points, spacing_mm) > 0.5)
    fraction = float((kept & whole).sum()) / max(1, int(whole.sum()))
    holes = fill_holes(kept) & ~kept
    region = kept | holes
    if brain is None and fraction >= MIN_MASKED_FRACTION:
        unit = content.radius_mm / spacing_mm
        bites = opened(closed(region, CLOSING * unit) & shown & ~region, MIN_BITE * unit)
        holes = holes | bites
        region = region | bites | (grown(region, RIM * unit) & shown)
    filled = _Difference(Image(holes.float(), grid), inside) if holes.any() else None
    if (region & ~kept).any():
        inside = _Union(Image(region.float(), grid), inside)
    masks = (Masked(inside, 0.5, min(image.spacing_mm)),)
    return Region(masks, filled, (OUTSIDE,), _doubts(mask, fraction))


def _doubts(mask: StoredImage, fraction: float) -> tuple[str, ...]:
    """Why a mask that keeps ``fraction`` of the content may be another than the user meant."""
    values = [block for _, block in mask.overview.blocks()]
    doubts = []
    if any(block.isnan().any() for block in values if block.is_floating_point()):
        doubts.append(f"mask {mask.name} has NaN, which counts as outside")
    if any((block < 0).any() for block in values):
        doubts.append(f"mask {mask.name} has negative values, which count as inside")
    if fraction < MIN_MASKED_FRACTION:
        doubts.append(f"mask {mask.name} keeps only {100 * fraction:.2g} % of the content")
    return tuple(doubts)
