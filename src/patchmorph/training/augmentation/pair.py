"""Random pairs of images: augmentation by transforms, not by resampled volumes.

An augmented image is the original sampled through a random transform, so only the voxels of a patch are
evaluated and each value is interpolated once. The moving image is transformed by an affine map only. For two
views of one person the true map is therefore known in closed form, without inverting a displacement.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from patchmorph.images.abstract import AbstractImage
from patchmorph.spatial.affine import about_point, apply_affine, exponential, from_translation, skew
from patchmorph.spatial.compilation import compilable
from patchmorph.spatial.grid import Grid
from patchmorph.training.augmentation.contrast import Contrast, one_contrast
from patchmorph.training.augmentation.draw import Draw
from patchmorph.training.config import Augmentation
from patchmorph.training.data.cohort import Cohort, Selection
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.displacement import DisplacementField

CUBE_MM = 256.0
"""Side of the cube that the random lattices of the displacement cover."""
FIELD_SHAPE = (33, 33, 33)
LANDMARK_ITERATIONS = 10
"""Fixed-point iterations that invert the smooth displacement at landmarks; each halves the error."""


@dataclass(frozen=True)
class View(AbstractImage):
    """Images sampled through a transform, with gamma and gain: ``gain · image(transform(x)) ** gamma``.

    Attributes:
        image: the original images.
        transform: world of the view → world of the original images, RAS+ mm.
        gamma: exponent of the intensities.
        gain: factor of the intensities.
        contrast: synthetic contrast of the network inputs; ``None``: the view's own.
    """

    image: Selection
    transform: Transform
    gamma: Float[Tensor, " b"]
    gain: Float[Tensor, " b"]
    contrast: Contrast | None = None

    def intensities(self, seen: Float[Tensor, "b *n 3"], spacing_mm: float) -> Float[Tensor, "b 1 *n"]:
        """Intensities at points ``seen`` in the original image's world, that is, after ``transform``."""
        values = self.image.sample(seen, spacing_mm)
        column = (-1, *(1 for _ in values.shape[1:]))
        return _toned(values, self.gamma.reshape(column), self.gain.reshape(column))

    def sample(self, points_world: Float[Tensor, "b *n 3"], spacing_mm: float) -> Float[Tensor, "b 1 *n"]:
        """Intensities of the view (see `AbstractImage`)."""
        return self.intensities(self.transform(points_world), spacing_mm)

    def shown(
        self, values: Float[Tensor, "b 1 x y z"], seen: Float[Tensor, "b x y z 3"], spacing_mm: float
    ) -> Float[Tensor, "b 1 x y z"]:
        """The network input for ``values``, the view's `intensities` at ``seen``."""
        return values if self.contrast is None else self.contrast.of(values, self.image, seen, spacing_mm)


@dataclass(frozen=True)
class AugmentedPair:
    """A batch of augmented pairs.

    Attributes:
        fixed: the fixed images.
        moving: the moving images.
        has_truth: 1.0 where both images show the same person, so that the true map is known.
        fixed_center: float64 ``[B, 3]``, centre of mass of the fixed images, RAS+ mm.
        moving_center: likewise for the moving images.
        fixed_landmarks: RAS+ mm, NaN for missing ones.
        moving_landmarks: likewise, in the same order.
    """

    fixed: View
    moving: View
    has_truth: Float[Tensor, " b"]
    fixed_center: Float[Tensor, "b 3"]
    moving_center: Float[Tensor, "b 3"]
    fixed_landmarks: Float[Tensor, "b k 3"]
    moving_landmarks: Float[Tensor, "b k 3"]

    def truth(self, seen: Float[Tensor, "b *n 3"]) -> Float[Tensor, "b *n 3"]:
        """True moving points of the points ``seen`` in the original fixed image, where ``has_truth``."""
        return self.moving.transform.inverse()(seen)


@compilable
def _toned(values: Tensor, gamma: Tensor, gain: Tensor) -> Tensor:
    # The offset keeps the power's gradient finite at zero.
    return (values + 1e-4) ** gamma * gain


def augmented_pair(cohort: Cohort, draw: Draw, config: Augmentation) -> AugmentedPair:
    """The pairs defined by ``draw``."""
    fixed_center = cohort.centers_world[draw.fixed_index]
    moving_center = cohort.centers_world[draw.moving_index]
    fixed_affine = random_affine(draw.affine[:, 0], draw.mirror, fixed_center, config)
    moving_affine = random_affine(draw.affine[:, 1], draw.mirror, moving_center, config)
    displacement = smooth_displacement(draw, fixed_center, config)
    fixed_view = fixed_affine @ displacement
    gamma = torch.exp(draw.tone[:, 0::2] * config.gamma)
    gain = 1 + draw.tone[:, 1::2] * config.gain
    has_truth = (draw.fixed_index == draw.moving_index).float()
    images = cohort.select(draw.fixed_index), cohort.select(draw.moving_index)
    contrasts: list[Contrast | None] = [None, None]
    if config.contrast:
        numbers = one_contrast(draw.contrast).unbind(1)
        centers = (fixed_center, moving_center)
        contrasts = [
            Contrast.from_numbers(*drawn, config.contrast)
            for drawn in zip(numbers, images, centers, strict=True)
        ]
    return AugmentedPair(
        fixed=View(images[0], fixed_view, gamma[:, 0], gain[:, 0], contrasts[0]),
        moving=View(images[1], moving_affine, gamma[:, 1], gain[:, 1], contrasts[1]),
        has_truth=has_truth,
        fixed_center=_inverse_mapped(fixed_affine, fixed_center),
        moving_center=_inverse_mapped(moving_affine, moving_center),
        fixed_landmarks=_inverse_displaced(
            displacement, fixed_affine.inverse()(cohort.landmarks[draw.fixed_index])
        ),
        moving_landmarks=moving_affine.inverse()(cohort.landmarks[draw.moving_index]),
    )


def random_affine(
    numbers: Float[Tensor, "b 13"],
    mirror: Float[Tensor, " b"],
    center: Float[Tensor, "b 3"],
    config: Augmentation,
) -> AffineTransform:
    """Rotation, scale, shear and mirroring about ``center`` and a shift, from uniform ``numbers``."""
    numbers = numbers.double()
    rotation = exponential(skew(numbers[:, :3] * math.radians(config.rotation_deg)))
    scale = torch.diag_embed(torch.exp(numbers[:, 3:6] * config.anisotropy + numbers[:, 6:7] * config.scale))
    zero, one = torch.zeros_like(numbers[:, 0]), torch.ones_like(numbers[:, 0])
    a, b, c = (numbers[:, 7:10] * config.shear).unbind(-1)
    shear = torch.stack([one, a, b, zero, one, c, zero, zero, one], dim=-1).reshape(-1, 3, 3)
    side = torch.where(mirror < 0, -one, one) if config.mirror else one
    linear = rotation @ scale @ shear @ torch.diag_embed(torch.stack([side, one, one], dim=-1))
    shift = from_translation(numbers[:, 10:13] * config.shift_mm)
    return AffineTransform(shift @ about_point(linear, center))


def smooth_displacement(draw: Draw, center: Float[Tensor, "b 3"], config: Augmentation) -> DisplacementField:
    """The sum of two random lattices, interpolated and smoothed over a cube around ``center``."""
    field = sum(
        functional.interpolate(
            amplitude * reach * lattice, size=FIELD_SHAPE, mode="trilinear", align_corners=True
        )
        for amplitude, reach, lattice in zip(
            draw.amplitude.unbind(1),
            (config.coarse_mm, config.fine_mm),
            (draw.coarse, draw.fine),
            strict=True,
        )
    )
    assert isinstance(field, Tensor)
    field = functional.avg_pool3d(functional.pad(field, (1,) * 6, mode="replicate"), 3, 1)
    return DisplacementField(field, Grid.centered(FIELD_SHAPE, CUBE_MM / (FIELD_SHAPE[0] - 1), center))


def _inverse_displaced(
    displacement: DisplacementField, points: Float[Tensor, "b k 3"]
) -> Float[Tensor, "b k 3"]:
    """Points that ``displacement`` maps to ``points``; the number of iterations is fixed."""
    source = points
    for _ in range(LANDMARK_ITERATIONS if points.numel() else 0):
        source = points - displacement.at(source)
    return source


def _inverse_mapped(transform: AffineTransform, points: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3"]:
    return apply_affine(transform.inverse().matrix, points[:, None])[:, 0]
