"""The two images as registration uses them: normalised, masked, with their content measured."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from patchmorph.errors import PatchMorphError
from patchmorph.images.foreground import Content, find_content, find_truncated_faces, foreground
from patchmorph.images.intensity import Curve, Masked
from patchmorph.images.volume import AbstractVolume, Image, MappedImage
from patchmorph.registration.acceptance import IntensityAgreement
from patchmorph.registration.brain import find_brain
from patchmorph.transforms.base import AffineTransform, Transform

AGREEMENT_POINTS = 48
"""Points along the longest side of the fixed content in which intensities are compared; fewer common points
than this say nothing."""


@dataclass(frozen=True)
class PreparedImage:
    """One image of a pair.

    Attributes:
        original: as it was given, on the device.
        image: normalised, zero outside of what is registered.
        content: of ``image``.
        note: what was left out of the original; empty if nothing was.
    """

    original: Image
    image: MappedImage
    content: Content
    note: str = ""

    def with_contrast(self, curve: Curve) -> "PreparedImage":
        """The same image with its intensities mapped by ``curve``; the content stays as measured."""
        return replace(self, image=self.image.mapped(curve))


@dataclass(frozen=True)
class PreparedPair:
    """Two prepared images, and how they compare under a map from the fixed to the moving world."""

    fixed: PreparedImage
    moving: PreparedImage

    @property
    def is_truncated(self) -> bool:
        """Whether the field of view of either image cuts through its content."""
        return bool(self.fixed.image.truncated_faces or self.moving.image.truncated_faces)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out of the images."""
        return tuple(filter(None, (self.fixed.note, self.moving.note)))

    def center_shift(self) -> AffineTransform:
        """The shift between the centres of mass: where a registration starts."""
        return AffineTransform.translation(self.moving.content.center_world - self.fixed.content.center_world)

    def sampled(self, transform: Transform, points: int = AGREEMENT_POINTS) -> tuple[Tensor, Tensor]:
        """Both images, ``[1, 1, X, Y, Z]``, at the points of a grid across the fixed content."""
        grid = self.fixed.content.grid(points)
        points_world, spacing_mm = grid.points_world(), float(grid.spacing_mm.max())
        fixed = self.fixed.image.sample(points_world, spacing_mm)
        return fixed, self.moving.image.sample(transform(points_world), spacing_mm)

    def agreement(self, transform: Transform, points: int = AGREEMENT_POINTS) -> IntensityAgreement | None:
        """The agreement of intensities where both show content; ``None``: they have too little in common."""
        fixed, warped = self.sampled(transform, points)
        both = foreground(fixed) & foreground(warped)
        return IntensityAgreement.of(fixed[both], warped[both]) if int(both.sum()) >= points else None

    def fraction_without_counterpart(self, transform: Transform) -> float:
        """Fraction of the fixed content that goes beyond a truncated face of the moving image."""
        grid = self.fixed.content.grid(AGREEMENT_POINTS)
        points_world = grid.points_world()
        visible = self.moving.image.in_field_of_view(transform(points_world))
        if visible is None:
            return 0.0
        content = foreground(self.fixed.image.sample(points_world, float(grid.spacing_mm.max())))
        return float((~visible)[content[:, 0]].float().mean())


@torch.no_grad()
def prepare_pair(
    fixed: Image,
    moving: Image,
    brain_network: nn.Module | None = None,
    masks: tuple[Image | None, Image | None] = (None, None),
) -> PreparedPair:
    """Normalise both images and keep what is registered of each.

    Args:
        fixed: one channel, any intensities.
        moving: likewise, on the same device.
        brain_network: finds the brain in images without a mask, on that device (see
            `patchmorph.networks.brain_mask`); ``None``: images show only what is to be registered.
        masks: of the fixed and the moving image; what they leave out is not used.

    Raises:
        PatchMorphError: an image is empty, not finite or has several channels, or a mask leaves nothing.
    """
    for image in (fixed, moving):
        if image.channels != 1:
            raise PatchMorphError(f"image must have one channel, got {image.channels} in {image.name}")
    return PreparedPair(
        prepare_image(fixed, masks[0], brain_network), prepare_image(moving, masks[1], brain_network)
    )


def prepare_image(image: Image, mask: Image | None, brain_network: nn.Module | None) -> PreparedImage:
    """What is registered of an image.

    Args:
        image: as it was given.
        mask: the user's, positive inside; used as it is.
        brain_network: finds the brain where there is no mask.

    Raises:
        PatchMorphError: an image that cannot be used, or a mask that leaves nothing.
    """
    normalized = image.normalized()
    content = find_content(normalized)
    notes = [f"{image.name}: outside of its mask left out"] if mask else []
    if mask is None and brain_network is not None:
        mask = find_brain(brain_network, normalized, content)
        notes = [f"{image.name}: the brain was found in a head, the rest left out"] if mask else []
    if mask is not None:
        normalized = masked(normalized, mask.to(image.grid.device))
        content = find_content(normalized)
    faces = find_truncated_faces(normalized)
    if faces:
        notes.append(f"{image.name}: the field of view cuts through the brain")
    return PreparedImage(image, normalized.with_truncated_faces(faces), content, "; ".join(notes))


def masked(image: AbstractVolume, mask: Image) -> MappedImage:
    """``image`` where ``mask``, linear between its voxels, is above half of its maximum; normalised again.

    Raises:
        PatchMorphError: nothing is left.
    """
    half = max(float(values.max()) for _, values in mask.blocks()) / 2
    inside = image.mapped(Masked(mask, half, min(image.spacing_mm)))
    if half <= 0 or not any(foreground(values).any() for _, values in inside.blocks()):
        raise PatchMorphError(f"mask must keep some of the image, got nothing of {image.name}")
    return inside.normalized()
