"""What of an image is registered: the brain in a whole head, or what a user's mask keeps."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from patchmorph.errors import PatchMorphError
from patchmorph.images.foreground import Content, find_content, find_cuts, foreground
from patchmorph.images.in_memory import Image
from patchmorph.networks.brain_mask import PATCH_SIZE
from patchmorph.networks.contract import predict
from patchmorph.patches.extraction import extract
from patchmorph.spatial.grid import Grid

SPACING_MM, RADIUS_MM = 2.75, 85.0
"""The patch's spacing for content of this radius; in proportion for any other."""

LOOKS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda shown: shown,
    lambda shown: 1.05 - shown,
    lambda shown: (2 * shown - 1).abs() + 0.1,
    lambda shown: (torch.cos(2 * math.pi * shown) + 1.1) / 2,
)
"""Contrasts in which the network sees the same patch: what it says of one it may not say of the next."""

LEAST, MOST = 0.12, 0.75
"""Share of the content that is kept: with less it was no brain; if one look keeps more, the image may show
little else (docs/decisions/009: of heads at most 0.71, of stripped brains at least 0.89, T1 in any pose)."""

SURE = 0.85
"""Mean probability of what is kept below which the network does not know what it sees."""

MARGIN = 1
"""Voxels of the patch (2 to 2.5 mm for a human head) that the mask grows by: the other image may have been
stripped less tightly, and what is dark between brain and skull does no harm (docs/decisions/009)."""

SMALLEST_MM = 10.0
"""Content of a smaller radius is no head of a primate, the only heads that the network knows."""


@dataclass(frozen=True)
class Subject:
    """An image as registration sees it.

    Attributes:
        image: normalised, zero outside of what is registered.
        content: of ``image``.
        note: what was left out of the image that was given; empty if nothing was.
    """

    image: Image
    content: Content
    note: str = ""


def prepared(image: Image, mask: Image | None, network: nn.Module | None) -> Subject:
    """What is registered of an image.

    Args:
        image: as it was given.
        mask: the user's, positive inside; taken as it is.
        network: finds the brain where there is no mask (see `patchmorph.networks.brain_mask`).

    Raises:
        PatchMorphError: an image that cannot be used, or a mask that leaves nothing.
    """
    seen = image.normalized()
    content = find_content(seen)
    note = f"{image.name}: outside of its mask left out" if mask else ""
    if mask is None and network is not None:
        mask = find_brain(network, seen, content)
        note = f"{image.name}: the brain was found in a head, the rest left out" if mask else ""
    if mask is not None:
        seen = masked(seen, mask.to(image.grid.device))
        content = find_content(seen)
    cuts = find_cuts(seen)
    if cuts:
        note = "; ".join(filter(None, (note, f"{image.name}: the field of view cuts through the brain")))
    return Subject(Image(seen.data, seen.grid, seen.name, cuts), content, note)


def masked(image: Image, mask: Image) -> Image:
    """``image`` where ``mask``, linear between its voxels, is above a half of its maximum; normalised again.

    Raises:
        PatchMorphError: nothing is left.
    """
    half = float(mask.data.max()) / 2
    finest = min(image.spacing_mm)
    inside = [mask.sample(slab.points_world(), finest) > half for slab in image.grid.slabs()]
    data = image.data * torch.cat(inside, dim=2)
    if half <= 0 or not foreground(data).any():
        raise PatchMorphError(f"mask must keep some of the image, got nothing of {image.name}")
    return Image(data, image.grid, image.name).normalized()


@torch.no_grad()
def find_brain(network: nn.Module, image: Image, content: Content) -> Image | None:
    """A mask of the brain, if the normalised image shows much else and the network is sure.

    One patch over the whole content is enough: 2 mm for a brain of usual size, 2.5 mm for its head.
    """
    if content.radius_mm < SMALLEST_MM:
        return None
    spacing_mm = SPACING_MM * content.radius_mm / RADIUS_MM
    patch = Grid.centered((PATCH_SIZE, PATCH_SIZE, PATCH_SIZE), spacing_mm, content.center_world)
    seen = extract(image, patch, spacing_mm)
    shown = foreground(seen)
    looks = torch.cat([torch.where(shown, look(seen), seen).clamp(0, 1) for look in LOOKS])
    shares = predict(network, looks).sigmoid()
    most = max(float((_largest(share[None] > 0.5) & shown).sum()) for share in shares)
    share = shares.mean(0, keepdim=True)
    largest = _largest(share > 0.5)
    least, total = float((largest & shown).sum()), float(shown.sum())
    if least < LEAST * total or most > MOST * total or float(share[largest].mean()) < SURE:
        return None
    grown = functional.max_pool3d(share * largest, 2 * MARGIN + 1, stride=1, padding=MARGIN)
    return Image(grown, patch, "brain")


def _largest(mask: Tensor) -> Tensor:
    """The largest connected part, with its holes filled."""
    from scipy import ndimage  # a quarter of a second that most commands can do without

    parts, count = ndimage.label(mask[0, 0].cpu().numpy())  # type: ignore[misc]
    if count == 0:
        return mask
    sizes = ndimage.sum_labels(parts > 0, parts, range(1, count + 1))
    part = ndimage.binary_fill_holes(parts == 1 + int(sizes.argmax()))
    return torch.from_numpy(part)[None, None].to(mask.device)
