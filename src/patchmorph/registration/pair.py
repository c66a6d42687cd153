"""The two images as registration compares them."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from patchmorph.images.chunked import StoredImage
from patchmorph.images.foreground import Content, foreground
from patchmorph.images.intensity import Curve
from patchmorph.images.volume import MappedImage
from patchmorph.registration.acceptance import IntensityAgreement
from patchmorph.registration.pulled import PulledImage
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.blocks import mapped_points

AGREEMENT_POINTS = 48
"""Points along the longest side of the fixed content in which intensities are compared; fewer common points
than this say nothing."""

BESIDE = "compared beside the images; what is warped and measured is the images only"


class ComparedImages(NamedTuple):
    """One channel of both images, normalised, and the weight of its similarity."""

    fixed: MappedImage | PulledImage
    moving: MappedImage | PulledImage
    weight: float


@dataclass(frozen=True)
class PreparedImage:
    """One image of a pair.

    Attributes:
        original: as it was given, on the device.
        image: normalised, zero outside of what is registered; of several channels the mean (see
            `patchmorph.registration.channels.with_means`).
        content: of ``image``.
        notes: what was left out of the original, one sentence each.
        doubts: what a user should check, likewise.
        channels: those that ``image`` is the mean of, the original's first; none for one channel.
    """

    original: StoredImage
    image: MappedImage | PulledImage
    content: Content
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    channels: tuple[MappedImage | PulledImage, ...] = ()

    def with_contrast(self, curve: Curve) -> "PreparedImage":
        """The same image, or mean of channels, with its intensities mapped by ``curve``; the same content."""
        return replace(self, image=self.image.mapped(curve), channels=())

    def through(self, transform: Transform) -> "PreparedImage":
        """The same image pulled through ``transform``; the content stays as measured."""
        channels = tuple(PulledImage(channel, transform) for channel in self.channels)
        return replace(self, image=PulledImage(self.image, transform), channels=channels)


@dataclass(frozen=True)
class PreparedPair:
    """Two prepared images, and how they compare under a map from the fixed to the moving world.

    Attributes:
        fixed: the image that stays.
        moving: the image that is registered to it.
        weights: of the channels of both, the first one's 1.
    """

    fixed: PreparedImage
    moving: PreparedImage
    weights: tuple[float, ...] = (1.0,)

    @property
    def compared(self) -> tuple[ComparedImages, ...]:
        """What refinement compares: each channel, or the means where one image is in another contrast."""
        if self.fixed.channels and self.moving.channels:
            channels = zip(self.fixed.channels, self.moving.channels, self.weights, strict=True)
            return tuple(ComparedImages(*one) for one in channels)
        return (ComparedImages(self.fixed.image, self.moving.image, 1.0),)

    @property
    def is_truncated(self) -> bool:
        """Whether the field of view of either image cuts through its content."""
        return bool(self.fixed.image.truncated_faces or self.moving.image.truncated_faces)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out of the images, and what was compared beside them."""
        further = len(self.weights) - 1
        beside = (f"{further} further {'channel was' if further == 1 else 'channels were'} {BESIDE}",)
        return self.fixed.notes + self.moving.notes + (beside if further else ())

    @property
    def doubts(self) -> tuple[str, ...]:
        """What a user should check of the images."""
        return self.fixed.doubts + self.moving.doubts

    def center_shift(self) -> AffineTransform:
        """The shift between the centres of mass: where a registration starts."""
        return AffineTransform.translation(self.moving.content.center_world - self.fixed.content.center_world)

    def sampled(self, transform: Transform, points: int = AGREEMENT_POINTS) -> tuple[Tensor, Tensor]:
        """Both images, ``[1, 1, X, Y, Z]``, at the points of a grid across the fixed content."""
        grid = self.fixed.content.grid(points)
        mapped, spacing_mm = mapped_points(transform, grid), float(grid.spacing_mm.max())
        return self.fixed.image.sample_grid(grid, spacing_mm), self.moving.image.sample(mapped, spacing_mm)

    def agreement(self, transform: Transform, points: int = AGREEMENT_POINTS) -> IntensityAgreement | None:
        """The agreement of intensities where both show content; ``None``: they have too little in common."""
        fixed, warped = self.sampled(transform, points)
        both = foreground(fixed) & foreground(warped)
        values = torch.cat([fixed[None], warped[None]])[:, both]
        return IntensityAgreement.of(*values) if values.shape[1] >= points else None

    def fraction_without_counterpart(self, transform: Transform) -> float:
        """Fraction of the fixed content that goes beyond a truncated face of the moving image."""
        grid = self.fixed.content.grid(AGREEMENT_POINTS)
        if not self.moving.image.truncated_faces:
            return 0.0
        visible = self.moving.image.in_field_of_view(mapped_points(transform, grid))
        assert visible is not None, "some face is truncated"
        content = foreground(self.fixed.image.sample_grid(grid, float(grid.spacing_mm.max())))
        return float((~visible)[content[:, 0]].float().mean())
