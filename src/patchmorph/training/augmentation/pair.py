"""Random pairs whose truth can be known: augmentation as transforms, not as resampled volumes.

An augmented image is the original seen through a random transform, so only the voxels of a patch are ever
evaluated and each value is interpolated once. The moving side is changed by an affine map only: for two views
of one person the true map is then known in closed form, without an inversion.
"""

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from patchmorph.patches.nested import draw_placement
from patchmorph.spatial.affine import about_point, apply_affine, exponential, from_translation, skew
from patchmorph.spatial.compilation import compilable
from patchmorph.spatial.grid import Grid
from patchmorph.training.augmentation.contrast import NUMBERS, Contrast, one_contrast
from patchmorph.training.config import Augmentation
from patchmorph.training.data.cohort import Cohort, Selection
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform
from patchmorph.transforms.displacement import DisplacementField

LATTICES = (7, 15)
"""Points along each side of the two random lattices over ``CUBE_MM``."""
CUBE_MM = 256.0
FIELD_SHAPE = (33, 33, 33)
AFFINE_NUMBERS = 13
LANDMARK_ITERATIONS = 10
"""Of the fixed-point search for a landmark's place under a smooth displacement; each halves the error."""


@dataclass(frozen=True)
class Draw:
    """Every random number of one training step: all else is a function of these.

    Numbers are uniform from −1 to 1 unless said otherwise. They are drawn on the CPU, so a seed means the
    same on every device; a step that several GPUs share is drawn whole on each, which takes its `part`.

    Attributes:
        fixed_index: slot of the fixed image in the cohort.
        moving_index: of the moving one.
        mirror: −1 or 1, the same for both images of a pair.
        affine: of the fixed and of the moving image.
        amplitude: of the two lattices, from 0 to 1.
        coarse: displacement at the coarse lattice's points.
        fine: displacement at the fine lattice's points.
        tone: gamma and gain of the fixed, then of the moving image.
        start: error of the start.
        root: place of the coarsest patch.
        placement: places of the finer patches in their parents.
        contrast: of the fixed and of the moving image (see `patchmorph.training.augmentation.contrast`); no numbers if all
            keep their own.
    """

    fixed_index: Int[Tensor, " b"]
    moving_index: Int[Tensor, " b"]
    mirror: Float[Tensor, " b"]
    affine: Float[Tensor, "b 2 13"]
    amplitude: Float[Tensor, "b 2 1 1 1 1"]
    coarse: Float[Tensor, "b 3 7 7 7"]
    fine: Float[Tensor, "b 3 15 15 15"]
    tone: Float[Tensor, "b 4"]
    start: Float[Tensor, "b 3"]
    root: Float[Tensor, "b 3"]
    placement: Float[Tensor, "b s 3"]
    contrast: Float[Tensor, "b 2 n"]

    @classmethod
    def sample(
        cls,
        images: int,
        batch: int,
        scales: int,
        same_person: float,
        generator: torch.Generator,
        contrasts: bool = False,
    ) -> "Draw":
        """Draw a step: each pair shows one person with probability ``same_person``."""

        def uniform(*shape: int) -> Tensor:
            return 2 * torch.rand(shape, generator=generator) - 1

        fixed_index = torch.randint(images, (batch,), generator=generator)
        other = torch.randint(images, (batch,), generator=generator)
        same = torch.rand(batch, generator=generator) < same_person
        return cls(
            fixed_index=fixed_index,
            moving_index=torch.where(same, fixed_index, other),
            mirror=torch.sign(uniform(batch)),
            affine=uniform(batch, 2, AFFINE_NUMBERS),
            amplitude=torch.rand(batch, 2, 1, 1, 1, 1, generator=generator),
            coarse=uniform(batch, 3, *(LATTICES[0],) * 3),
            fine=uniform(batch, 3, *(LATTICES[1],) * 3),
            tone=uniform(batch, 4),
            start=uniform(batch, 3),
            root=uniform(batch, 3),
            placement=draw_placement(scales, batch, generator),
            contrast=uniform(batch, 2, NUMBERS if contrasts else 0),
        )

    def to(self, device: torch.device) -> "Draw":
        """The same numbers on another device."""
        return Draw(**{f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)})

    def part(self, first: int, count: int) -> "Draw":
        """Some of the pairs."""
        return Draw(**{f.name: getattr(self, f.name)[first : first + count] for f in fields(self)})

    def copy_(self, other: "Draw") -> None:
        """Overwrite these tensors in place."""
        for field in fields(self):
            getattr(self, field.name).copy_(getattr(other, field.name), non_blocking=True)


@dataclass(frozen=True)
class View:
    """Images seen through a transform, with changed tone: ``gain · image(transform(x)) ** gamma``.

    Networks see them in another ``contrast``, if there is one.
    """

    image: Selection
    transform: Transform
    gamma: Float[Tensor, " b"]
    gain: Float[Tensor, " b"]
    contrast: Contrast | None = None

    def intensities(self, seen: Float[Tensor, "b *n 3"], spacing_mm: float) -> Float[Tensor, "b 1 *n"]:
        """What the view shows at points that ``transform`` has taken to the image's own world already."""
        values = self.image.sample(seen, spacing_mm)
        column = (-1, *(1 for _ in values.shape[1:]))
        return _toned(values, self.gamma.reshape(column), self.gain.reshape(column))

    def sample(self, points_world: Float[Tensor, "b *n 3"], spacing_mm: float) -> Float[Tensor, "b 1 *n"]:
        """Intensities of the view (see `patchmorph.images.in_memory.ImageSource`)."""
        return self.intensities(self.transform(points_world), spacing_mm)

    def shown(
        self, values: Float[Tensor, "b 1 x y z"], seen: Float[Tensor, "b x y z 3"], spacing_mm: float
    ) -> Float[Tensor, "b 1 x y z"]:
        """What networks see where the view has ``values``, its `intensities` at ``seen``."""
        return values if self.contrast is None else self.contrast.of(values, self.image, seen, spacing_mm)


@dataclass(frozen=True)
class Pair:
    """A batch of augmented pairs.

    Attributes:
        fixed: the fixed images.
        moving: the moving images.
        known: 1.0 where both show the same person.
        fixed_center: float64 ``[B, 3]``, centre of mass of the fixed images, RAS+ mm.
        moving_center: likewise.
        fixed_landmarks: RAS+ mm, NaN where one is missing.
        moving_landmarks: likewise, in the same order.
    """

    fixed: View
    moving: View
    known: Float[Tensor, " b"]
    fixed_center: Float[Tensor, "b 3"]
    moving_center: Float[Tensor, "b 3"]
    fixed_landmarks: Float[Tensor, "b k 3"]
    moving_landmarks: Float[Tensor, "b k 3"]

    def truth(self, seen: Float[Tensor, "b *n 3"]) -> Float[Tensor, "b *n 3"]:
        """Where in the moving world a point that ``fixed`` shows at ``seen`` belongs, where ``known``."""
        return self.moving.transform.inverse()(seen)


@compilable
def _toned(values: Tensor, gamma: Tensor, gain: Tensor) -> Tensor:
    # The offset keeps the power's gradient finite at zero.
    return (values + 1e-4) ** gamma * gain


def augmented_pair(cohort: Cohort, draw: Draw, config: Augmentation) -> Pair:
    """The pairs that ``draw`` describes."""
    fixed_center = cohort.centers_world[draw.fixed_index]
    moving_center = cohort.centers_world[draw.moving_index]
    fixed_affine = random_affine(draw.affine[:, 0], draw.mirror, fixed_center, config)
    moving_affine = random_affine(draw.affine[:, 1], draw.mirror, moving_center, config)
    displacement = smooth_displacement(draw, fixed_center, config)
    fixed_view = fixed_affine @ displacement
    gamma = torch.exp(draw.tone[:, 0::2] * config.gamma)
    gain = 1 + draw.tone[:, 1::2] * config.gain
    known = (draw.fixed_index == draw.moving_index).float()
    images = cohort.select(draw.fixed_index), cohort.select(draw.moving_index)
    contrasts: list[Contrast | None] = [None, None]
    if config.contrast:
        numbers = one_contrast(draw.contrast).unbind(1)
        centers = (fixed_center, moving_center)
        contrasts = [
            Contrast.from_numbers(*drawn, config.contrast)
            for drawn in zip(numbers, images, centers, strict=True)
        ]
    return Pair(
        fixed=View(images[0], fixed_view, gamma[:, 0], gain[:, 0], contrasts[0]),
        moving=View(images[1], moving_affine, gamma[:, 1], gain[:, 1], contrasts[1]),
        known=known,
        fixed_center=_back(fixed_affine, fixed_center),
        moving_center=_back(moving_affine, moving_center),
        fixed_landmarks=_before(displacement, fixed_affine.inverse()(cohort.landmarks[draw.fixed_index])),
        moving_landmarks=moving_affine.inverse()(cohort.landmarks[draw.moving_index]),
    )


def random_affine(
    numbers: Float[Tensor, "b 13"],
    mirror: Float[Tensor, " b"],
    center: Float[Tensor, "b 3"],
    config: Augmentation,
) -> AffineTransform:
    """Rotation, scale, shear and mirroring about ``center``, and a shift, from uniform ``numbers``."""
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
    """Two random lattices, interpolated and smoothed over a cube around ``center``."""
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


def _before(displacement: DisplacementField, points: Float[Tensor, "b k 3"]) -> Float[Tensor, "b k 3"]:
    """Where a displacement takes ``points`` from, by a fixed number of steps: nothing waits for the GPU."""
    source = points
    for _ in range(LANDMARK_ITERATIONS if points.numel() else 0):
        source = points - displacement.at(source)
    return source


def _back(transform: AffineTransform, points: Float[Tensor, "b 3"]) -> Float[Tensor, "b 3"]:
    return apply_affine(transform.inverse().matrix, points[:, None])[:, 0]
