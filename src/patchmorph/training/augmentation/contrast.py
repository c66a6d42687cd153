"""Images in contrasts that nobody took: what the networks see, while the losses see the images themselves.

A contrast remaps intensities by a random curve, paints every label in a random grey value (as SynthSeg and
SynthMorph do: Billot et al., Med Image Anal 2023; Hoffmann et al., IEEE TMI 2022), or mixes both, and adds a
bias field and noise. It is computed at the points of a patch, when they are asked for. Similarity is still
measured between the images in their own contrast, so a network learns to find from any two contrasts what is
only visible in one.
"""

import functools
from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.spatial.affine import constant
from patchmorph.spatial.compilation import compilable
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.sampling import sample_linear
from patchmorph.training.data.cohort import Selection

KNOTS = 6
"""Of the curve, above zero, which stays zero."""
PAINTS = 64
"""Labels that can be painted."""
LATTICE = 5
"""Points of the bias field along each side of `LATTICE_MM`."""
LATTICE_MM = 256.0
CHOICES = 5
NUMBERS = CHOICES + KNOTS + PAINTS + LATTICE**3
"""Uniform numbers (-1 to 1) that a contrast is made of."""

SAME = 0.4
"""Share of pairs whose images have one contrast, if another than their own."""
REMAPPED, PAINTED = 0.4, 0.7
"""Below the one a contrast is a curve only, above the other it is paint only, between them a mixture."""
BIAS = 0.3
"""Largest logarithm of the bias field."""
NOISE = 0.04
"""Largest standard deviation of the noise."""
GRAINS = 2**20
"""Numbers of the noise that all images share, each from its own place on."""


@dataclass(frozen=True)
class Contrast:
    """How networks see a batch of images.

    Attributes:
        other: 1.0 where an image is seen in another contrast than its own.
        curve: intensity at ``KNOTS`` + 1 equal steps from 0 to 1.
        paint: grey value of each label's number; none is 0.
        share: of the paint.
        bias: logarithm of the bias field, on a lattice around the image's centre.
        grid: of that lattice.
        noise: standard deviation.
        grain: first number of the noise.
    """

    other: Float[Tensor, " b"]
    curve: Float[Tensor, "b k"]
    paint: Float[Tensor, "b p"]
    share: Float[Tensor, " b"]
    bias: Float[Tensor, "b 1 l l l"]
    grid: Grid
    noise: Float[Tensor, " b"]
    grain: Float[Tensor, " b"]

    @classmethod
    def from_numbers(
        cls, numbers: Float[Tensor, "b n"], images: Selection, center: Float[Tensor, "b 3"], often: float
    ) -> "Contrast":
        """The contrasts that uniform ``numbers`` stand for.

        Args:
            numbers: ``NUMBERS`` for each image.
            images: whose labels are painted, if they have any.
            center: of the images, in the world in which they are asked for, RAS+ mm.
            often: share of images with another contrast than their own.
        """
        choice, curve, paint, bias = numbers.split([CHOICES, KNOTS, PAINTS, LATTICE**3], dim=1)
        choice = (1 + choice) / 2
        cohort = images.cohort
        mixed = ((choice[:, 1] - REMAPPED) / (PAINTED - REMAPPED)).clamp(0, 1)
        return cls(
            other=(choice[:, 0] < often).float(),
            curve=_from_zero(curve),
            paint=_from_zero(paint[:, 1:]),
            share=mixed * cohort.has_labels[images.index],
            bias=BIAS * choice[:, 2, None, None, None, None] * bias.reshape(-1, 1, *(LATTICE,) * 3),
            grid=Grid.centered((LATTICE, LATTICE, LATTICE), LATTICE_MM / (LATTICE - 1), center),
            noise=NOISE * choice[:, 3].square(),
            grain=choice[:, 4] * GRAINS,
        )

    @torch.no_grad()
    def of(
        self,
        values: Float[Tensor, "b 1 x y z"],
        images: Selection,
        seen: Float[Tensor, "b x y z 3"],
        spacing_mm: float,
    ) -> Float[Tensor, "b 1 x y z"]:
        """``values``, which ``images`` have at ``seen``, as the networks see them.

        A coarse voxel is the mean of remapped fine ones, not a remapped mean: so it is in a real image.
        """
        finest = min(images.cohort.levels)
        around = product((-spacing_mm / 4, spacing_mm / 4), repeat=3) if spacing_mm > finest else [(0, 0, 0)]
        offsets = [constant(offset, seen.device).float() for offset in around]
        remapped = torch.zeros_like(values)
        for offset in offsets:
            remapped += _remapped(images.sample(seen + offset, finest), self.curve) / len(offsets)
        painted = remapped
        if images.cohort.labels is not None:
            painted = images.painted(seen, self.paint, spacing_mm / 4)
        bias = sample_linear(self.bias, seen, "border", self.grid.world_to_voxel)
        grain = _grain(values.device)
        place = torch.arange(values[0].numel(), device=values.device) + self.grain[:, None].long()
        noise = grain[place % GRAINS].reshape(values.shape)
        return _shown(values, remapped, painted, self.share, bias, noise, self.noise, self.other)


def one_contrast(numbers: Float[Tensor, "b 2 n"]) -> Float[Tensor, "b 2 n"]:
    """Let the two images of some pairs share all numbers, and so the contrast."""
    first, second = numbers.unbind(1)
    alike = (second[:, :1] + 1) / 2 < SAME
    return torch.stack([first, torch.where(alike, first, second)], dim=1)


def check_labels(label_count: int) -> None:
    """Refuse more labels than can be painted."""
    if label_count >= PAINTS:
        raise PatchMorphError(
            f"labels must be fewer than {PAINTS} where augmentation.contrast paints them, got {label_count}"
        )


def _from_zero(numbers: Float[Tensor, "b k"]) -> Float[Tensor, "b k1"]:
    """Values from 0 to 1, the largest 1, behind a zero."""
    values = (1 + numbers) / 2
    return torch.cat([torch.zeros_like(values[:, :1]), values / values.amax(1, keepdim=True)], dim=1)


@functools.cache
def _grain(device: torch.device) -> Float[Tensor, " n"]:
    return torch.randn(GRAINS, generator=torch.Generator().manual_seed(0)).to(device)


@compilable
def _remapped(values: Tensor, curve: Tensor) -> Tensor:
    """``curve`` at ``values`` (0 to 1), linear between its knots."""
    place = values.flatten(1).clamp(0, 1) * KNOTS
    knot = place.floor().clamp(max=KNOTS - 1)
    lower, upper = curve.gather(1, knot.long()), curve.gather(1, knot.long() + 1)
    return (lower + (upper - lower) * (place - knot)).reshape(values.shape)


@compilable
def _shown(
    values: Tensor,
    remapped: Tensor,
    painted: Tensor,
    share: Tensor,
    bias: Tensor,
    noise: Tensor,
    deviation: Tensor,
    other: Tensor,
) -> Tensor:
    share, deviation, other = (
        column.reshape(-1, *(1 for _ in values.shape[1:])) for column in (share, deviation, other)
    )
    mixed = remapped + share * (painted - remapped)
    there = (mixed > 0.01).to(mixed.dtype)  # nothing is added to an empty background
    shown = mixed * torch.exp(bias) + there * deviation * noise
    return values + other * (shown.clamp(0, 1) - values)
