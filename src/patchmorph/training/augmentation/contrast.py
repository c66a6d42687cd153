"""Synthetic contrasts for the inputs of the networks; losses use the original images.

A contrast remaps intensities by a random curve, paints every label in a random grey value (as in SynthSeg and
SynthMorph: Billot et al., Med Image Anal 2023; Hoffmann et al., IEEE TMI 2022), or mixes both, and adds a
bias field and noise. It is computed at the sampled points of a patch only. Similarity is measured between the
images in their original contrast, so the networks learn to align images of any two contrasts.
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
"""Knots of the curve above zero, which stays zero."""
PAINTS = 64
"""Number of grey values for labels, background included."""
BIAS_POINTS = 5
"""Points of the bias field's lattice along each side of `BIAS_EXTENT_MM`."""
BIAS_EXTENT_MM = 256.0
CHOICES = 5
NUMBERS = CHOICES + KNOTS + PAINTS + BIAS_POINTS**3
"""Uniform numbers (-1 to 1) that define a contrast."""

SAME = 0.4
"""Fraction of pairs whose two images get the same synthetic contrast, if any."""
MAX_CURVE_ONLY, MIN_PAINT_ONLY = 0.4, 0.7
"""A uniform number below the first gives a curve only, above the second paint only, in between a mixture."""
MAX_BIAS = 0.3
"""Largest absolute logarithm of the bias field."""
MAX_NOISE = 0.04
"""Largest standard deviation of the noise."""
NOISE_VALUES = 2**20
"""Normal random numbers shared by all images as noise, each image with its own offset."""


@dataclass(frozen=True)
class Contrast:
    """Synthetic contrasts of a batch of images.

    Attributes:
        other: 1.0 where an image gets a synthetic contrast.
        curve: intensity at ``KNOTS`` + 1 equal steps from 0 to 1.
        paint: grey value of each label number; 0 for the background.
        share: fraction of paint in the mixture with the curve.
        bias: logarithm of the bias field, on a lattice around the image's centre.
        grid: of that lattice.
        noise: standard deviation of the noise.
        grain: offset into the shared noise values.
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
        """The contrasts defined by uniform ``numbers``.

        Args:
            numbers: ``NUMBERS`` values from -1 to 1 for each image.
            images: the images, whose labels are painted if they have any.
            center: of the images, in their own world, RAS+ mm.
            often: fraction of images with a synthetic contrast.
        """
        choice, curve, paint, bias = numbers.split([CHOICES, KNOTS, PAINTS, BIAS_POINTS**3], dim=1)
        choice = (1 + choice) / 2
        cohort = images.cohort
        mixed = ((choice[:, 1] - MAX_CURVE_ONLY) / (MIN_PAINT_ONLY - MAX_CURVE_ONLY)).clamp(0, 1)
        return cls(
            other=(choice[:, 0] < often).float(),
            curve=_from_zero(curve),
            paint=_from_zero(paint[:, 1:]),
            share=mixed * cohort.has_labels[images.index],
            bias=MAX_BIAS * choice[:, 2, None, None, None, None] * bias.reshape(-1, 1, *(BIAS_POINTS,) * 3),
            grid=Grid.centered(
                (BIAS_POINTS, BIAS_POINTS, BIAS_POINTS), BIAS_EXTENT_MM / (BIAS_POINTS - 1), center
            ),
            noise=MAX_NOISE * choice[:, 3].square(),
            grain=choice[:, 4] * NOISE_VALUES,
        )

    @torch.no_grad()
    def of(
        self,
        values: Float[Tensor, "b 1 x y z"],
        images: Selection,
        seen: Float[Tensor, "b x y z 3"],
        spacing_mm: float,
    ) -> Float[Tensor, "b 1 x y z"]:
        """The network input for ``values``, the intensities of ``images`` at the points ``seen`` (RAS+ mm).

        A coarse voxel is the mean of remapped fine voxels, as in a real image, not a remapped mean.
        """
        finest = min(images.cohort.levels)
        corners = product((-spacing_mm / 4, spacing_mm / 4), repeat=3) if spacing_mm > finest else [(0, 0, 0)]
        offsets = [constant(offset, seen.device).float() for offset in corners]
        remapped = torch.zeros_like(values)
        for offset in offsets:
            remapped += _remapped(images.sample(seen + offset, finest), self.curve) / len(offsets)
        painted = remapped
        if images.cohort.labels is not None:
            painted = images.painted(seen, self.paint, spacing_mm / 4)
        bias = sample_linear(self.bias, seen, "border", self.grid.world_to_voxel)
        noise_values = _noise_values(values.device)
        position = torch.arange(values[0].numel(), device=values.device) + self.grain[:, None].long()
        noise = noise_values[position % NOISE_VALUES].reshape(values.shape)
        return _mixed(values, remapped, painted, self.share, bias, noise, self.noise, self.other)


def one_contrast(numbers: Float[Tensor, "b 2 n"]) -> Float[Tensor, "b 2 n"]:
    """Give the two images of a fraction `SAME` of the pairs the same numbers, and so the same contrast."""
    first, second = numbers.unbind(1)
    same = (second[:, :1] + 1) / 2 < SAME
    return torch.stack([first, torch.where(same, first, second)], dim=1)


def check_labels(label_count: int) -> None:
    """Check that there is a grey value for each label.

    Raises:
        PatchMorphError: too many labels.
    """
    if label_count >= PAINTS:
        raise PatchMorphError(
            f"labels must be fewer than {PAINTS} where augmentation.contrast paints them, got {label_count}"
        )


def _from_zero(numbers: Float[Tensor, "b k"]) -> Float[Tensor, "b k1"]:
    """Zero, followed by values from 0 to 1 whose largest is 1."""
    values = (1 + numbers) / 2
    return torch.cat([torch.zeros_like(values[:, :1]), values / values.amax(1, keepdim=True)], dim=1)


@functools.cache
def _noise_values(device: torch.device) -> Float[Tensor, " n"]:
    return torch.randn(NOISE_VALUES, generator=torch.Generator().manual_seed(0)).to(device)


@compilable
def _remapped(values: Tensor, curve: Tensor) -> Tensor:
    """``curve`` at ``values`` (0 to 1), linear between knots."""
    position = values.flatten(1).clamp(0, 1) * KNOTS
    knot = position.floor().clamp(max=KNOTS - 1)
    lower, upper = curve.gather(1, knot.long()), curve.gather(1, knot.long() + 1)
    return (lower + (upper - lower) * (position - knot)).reshape(values.shape)


@compilable
def _mixed(
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
    occupied = (mixed > 0.01).to(mixed.dtype)  # no noise in an empty background
    synthetic = mixed * torch.exp(bias) + occupied * deviation * noise
    return values + other * (synthetic.clamp(0, 1) - values)
