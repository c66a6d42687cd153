"""The result of a registration."""

import functools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.images.chunked import StoredImage
from patchmorph.images.volume import Image
from patchmorph.registration.acceptance import LINEAR_VERDICT, VERDICT
from patchmorph.registration.display import summary_html
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.uncertainty import uncertainty
from patchmorph.registration.verdict import Evidence, Verdict, judge, measure_evidence
from patchmorph.spatial.sampling import Interpolation
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.jacobian import jacobian_determinant
from patchmorph.transforms.resample import resample
from patchmorph.transforms.velocity import VelocityField


@dataclass(frozen=True)
class Registration:
    """A pair of images and the map between them.

    Attributes:
        pair: the images as they were compared.
        history: the transforms before the first stage and after each stage; the last is ``transform``.
        remarks: what a user should know of the registration, one sentence each.
    """

    pair: PreparedPair
    history: tuple[Transform, ...]
    remarks: tuple[str, ...] = ()

    def __repr__(self) -> str:
        images = f"moving {self.moving.name!r} to fixed {self.fixed.name!r}"
        return f"Registration({images}, verdict {self.verdict.level}, {self.transform!r})"

    def _repr_html_(self) -> str:
        return summary_html(self)

    @property
    def fixed(self) -> StoredImage:
        """The image whose space the result is in."""
        return self.pair.fixed.original

    @property
    def moving(self) -> StoredImage:
        """The image that was brought there."""
        return self.pair.moving.original

    @property
    def transform(self) -> Transform:
        """Fixed world → moving world (pull-back), RAS+ mm."""
        return self.history[-1]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the images and of the registration, one sentence each."""
        return self.pair.notes + self.pair.doubts + self.remarks

    @property
    def fraction_without_counterpart(self) -> float:
        """Fraction of the fixed content beyond a truncated face of the moving image: there the map only
        continues smoothly."""
        return self.pair.fraction_without_counterpart(self.transform)

    @functools.cached_property
    def evidence(self) -> Evidence:
        """The figures that the verdict is made of."""
        return measure_evidence(self.pair, self.transform)

    @property
    def verdict(self) -> Verdict:
        """Whether the result can be used as it is: ``pass``, ``check`` or ``fail``, and why."""
        linear = isinstance(self.transform, AffineTransform)
        return judge(self.evidence, self.pair.doubts, LINEAR_VERDICT if linear else VERDICT)

    @property
    def has_uncertainty(self) -> bool:
        """Whether the registration was asked to keep it."""
        fields = [part for part in self.transform.parts() if isinstance(part, VelocityField)]
        return any(field.variance is not None for field in fields)

    def uncertainty(self) -> Image:
        """Standard deviation of the map in mm on the fixed grid, for a registration that kept it.

        Raises:
            PatchMorphError: the registration was not asked for it.
        """
        if not self.has_uncertainty:
            raise PatchMorphError("uncertainty must be asked for when registering, got a result without it")
        return uncertainty(self.transform, self.fixed.grid)

    @functools.cached_property
    def inverse(self) -> Transform:
        """Moving world → fixed world."""
        return self.transform.inverse()

    def warped(self, image: StoredImage | None = None, interpolation: Interpolation = "linear") -> Image:
        """The moving image, or another one in its space such as its labels, on the fixed grid.

        Outside the image are zeros, or its background where that was given.
        """
        image = self.moving if image is None else image.to(self.fixed.grid.device)
        return resample(image, self.transform, self.fixed.grid, interpolation, fill_of(image))

    def jacobian(self) -> Float[Tensor, "x y z"]:
        """Jacobian determinant of ``transform`` on the fixed grid."""
        return jacobian_determinant(self.transform, self.fixed.grid)


def fill_of(image: StoredImage) -> int | float:
    """What an image shows outside: its background, if it was given and the number type holds it, else 0."""
    background = image.background
    if background is None:
        return 0
    if image.dtype.is_floating_point:
        return background
    limits = torch.iinfo(image.dtype)
    holds = math.isfinite(background) and float(background).is_integer()
    return int(background) if holds and limits.min <= background <= limits.max else 0
