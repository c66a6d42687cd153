"""Thresholds by which a registration accepts or rejects what it found: each with its unit and reason.

Decision 009 (docs/decisions/009-any-image.md) has the measurements behind the numbers.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.objective.similarity import correlation_ratio


class IntensityAgreement(NamedTuple):
    """How well the intensities of two images at the same points explain each other.

    Attributes:
        linear_r2: fraction of the variance that a straight line explains; negative where the line falls.
        correlation_ratio: fraction that any function of the one or the other explains.
    """

    linear_r2: float
    correlation_ratio: float

    @classmethod
    def of(cls, first: Float[Tensor, " n"], second: Float[Tensor, " n"]) -> "IntensityAgreement":
        """The agreement of values from 0 to 1 at the same points."""
        ratios = [correlation_ratio(a[None], b[None]) for a, b in ((first, second), (second, first))]
        a, b = first - first.mean(), second - second.mean()
        moments = torch.stack([a.dot(b), a.dot(a), b.dot(b)])
        common, variance, other, *ratios = torch.cat([moments, *ratios]).tolist()  # one wait for a GPU
        return cls(common * abs(common) / (variance * other or 1.0), max(ratios))

    @property
    def linearity(self) -> float:
        """The line's part of what any function explains."""
        return self.linear_r2 / max(self.correlation_ratio, 1e-6)


@dataclass(frozen=True)
class BrainAcceptance:
    """Whether a mask predicted by the brain network is used, that is, whether the image shows a head.

    Attributes:
        min_brain_fraction: fraction of the content that the mask keeps, at least; with less it is no brain.
        max_brain_fraction: fraction of the content that the mask of any intensity remap keeps, at most; with
            more the image may show little else (heads keep at most 0.71, stripped brains at least 0.89: T1 in
            any pose).
        min_mask_confidence: mean probability inside the mask, at least.
        min_radius_mm: radius of the content, at least: the network was trained on heads of primates only.
    """

    min_brain_fraction: float = 0.12
    max_brain_fraction: float = 0.75
    min_mask_confidence: float = 0.85
    min_radius_mm: float = 10.0

    def accepts(self, fraction: float, largest_fraction: float, confidence: float) -> bool:
        """Whether the mask separates a brain from a head.

        Args:
            fraction: of the content that the mask keeps.
            largest_fraction: of the content that the largest mask of any intensity remap keeps.
            confidence: mean probability inside the mask.
        """
        return (
            fraction >= self.min_brain_fraction
            and largest_fraction <= self.max_brain_fraction
            and confidence >= self.min_mask_confidence
        )


@dataclass(frozen=True)
class AffineAcceptance:
    """Whether the map of an affine network replaces the pose that it started from.

    Attributes:
        min_retained_agreement: correlation ratio after the network over that of the pose, at least: 0.93 to
            2.2 where the network is no worse, 0.70 and 0.18 where it left the pose by millimetres.
    """

    min_retained_agreement: float = 0.8

    def accepts(self, before: IntensityAgreement | None, after: IntensityAgreement | None) -> bool:
        """Whether the images still explain each other; ``None``: too few points in common to tell."""
        if before is None:
            return True
        if after is None:
            return False
        return after.correlation_ratio >= self.min_retained_agreement * before.correlation_ratio


@dataclass(frozen=True)
class ContrastAcceptance:
    """Whether two images show one contrast, or can be brought into one.

    Attributes:
        min_linearity_of_pose: linearity under the pose above which one contrast is possible: 0.93 to 1 for T1
            of many scanners.
        min_linear_r2: under the map of the same-contrast model, above which the images have one contrast: T1
            of one scanner 0.92 to 0.94, of two 0.81 to 0.87, other contrasts at most 0.91. Of images of which
            one was brought into the contrast of the other: 0.92 to 0.95 where no intensities were lost (below
            0.9 with a noisy image of another scanner), at most 0.88 through random curves.
        min_linearity: under the map of the any-contrast model, likewise: T1 of any scanner 0.95 to 1, other
            contrasts at most 0.95, mostly below 0.9.
        max_opposite_r2: linear R² of two channels inside one image, below which bright in one is dark in the
            other: marmoset T1 and T2 -0.67, channels of different structures about 0 (decision 014).
    """

    min_linearity_of_pose: float = 0.92
    min_linear_r2: float = 0.9
    min_linearity: float = 0.95
    max_opposite_r2: float = -0.1

    def may_be_one(self, agreement: IntensityAgreement | None) -> bool:
        """Whether one contrast is possible, from the agreement under the pose."""
        return agreement is None or agreement.linearity > self.min_linearity_of_pose

    def is_one(self, agreement: IntensityAgreement | None) -> bool:
        """Whether images agree as those of one contrast do.

        As given, under the map of the same-contrast model; or one in the contrast of the other, under that of
        the any-contrast model.
        """
        return agreement is not None and agreement.linear_r2 > self.min_linear_r2

    def is_linear(self, agreement: IntensityAgreement | None) -> bool:
        """Whether the agreement under the map of the any-contrast model is that of one contrast."""
        return agreement is not None and agreement.linearity > self.min_linearity

    def is_opposite(self, linear_r2: float) -> bool:
        """Whether bright in one channel of an image is dark in another one."""
        return linear_r2 < self.max_opposite_r2


BRAIN = BrainAcceptance()
AFFINE = AffineAcceptance()
CONTRAST = ContrastAcceptance()

ROTATION_PENALTY = 0.02
"""Correlation ratio by which half a turn must exceed no turn: decides for objects that are nearly alike from
several sides."""

MIN_COMMON_FRACTION = 0.5
"""Fraction of the fixed content that both images show; a pose with less is weighted down."""


@dataclass(frozen=True)
class Limit:
    """Limits of one figure of `patchmorph.registration.verdict.Evidence`.

    Attributes:
        figure: name of the attribute.
        words: the figure in words, for reasons.
        check: value from which on a result is to be looked at.
        fail: value from which on it should not be used.
        falling: whether small values are bad.
        unit: of the figure.
    """

    figure: str
    words: str
    check: float
    fail: float
    falling: bool = False
    unit: str = ""

    def fails(self, value: float) -> bool:
        """Whether a result with this value should not be used; NaN fails."""
        return not (value > self.fail if self.falling else value < self.fail)

    def doubts(self, value: float) -> bool:
        """Whether a result with this value should be looked at."""
        return not (value > self.check if self.falling else value < self.check)

    def reason(self, value: float) -> str:
        """The value with the limit that it misses."""
        word = "above" if self.falling else "below"
        limit = self.fail if self.fails(value) else self.check
        return f"{self.words} must be {word} {limit:g}{self.unit}, got {value:.3g}{self.unit}"


VERDICT = (
    Limit("local_correlation", "local correlation of the images", check=0.65, fail=0.45, falling=True),
    Limit("correlation_ratio", "correlation ratio of the images", check=0.65, fail=0.3, falling=True),
    Limit("overlap", "overlap (Dice) of the foregrounds", check=0.94, fail=0.9, falling=True),
    Limit("folding_percent", "folding", check=0.2, fail=1.0, unit=" %"),
    Limit("sd_log_jacobian", "standard deviation of the log-Jacobian", check=0.51, fail=0.62),
    Limit("scaling", "scaling by the affine part", check=1.4, fail=2.5),
    Limit("stretch", "stretch by the affine part", check=1.3, fail=2.0),
    Limit("rotation_degrees", "rotation against the headers", check=90.0, fail=181.0, unit="°"),
    Limit("without_counterpart", "fraction of the fixed content without counterpart", check=0.33, fail=0.8),
)
"""The limits of the verdict, chosen on development pairs of ``benchmarks/verdict.py`` (decision 013). Good
T1 pairs there have correlations above 0.9 and a log-Jacobian below 0.44. Two contrasts have correlations of
0.63 and 0.37 at least, so that they often are to be looked at."""

_OF_LINEAR_MAPS = (
    Limit("local_correlation", "local correlation of the images", check=0.55, fail=0.4, falling=True),
    Limit("correlation_ratio", "correlation ratio of the images", check=0.55, fail=0.3, falling=True),
    Limit("overlap", "overlap (Dice) of the foregrounds", check=0.92, fail=0.88, falling=True),
)
LINEAR_VERDICT = (*_OF_LINEAR_MAPS, *VERDICT[len(_OF_LINEAR_MAPS) :])
"""The same for rigid and affine maps, which leave the shapes of two brains different. Six development pairs
of T1 (with sub-03): affine 0.62 to 0.68, 0.65 to 0.75 and 0.94 to 0.96; rigid 0.52 to 0.65, 0.57 to 0.70 and
0.91 to 0.95; affine but shifted by 5 mm 0.44 to 0.51, 0.45 to 0.52 and 0.92 to 0.93, by 10 mm 0.30 to 0.34,
0.22 to 0.25 and 0.87 to 0.88."""

MAX_BRAIN_WINDOW = 2.9
"""`patchmorph.images.padding.MAX_WINDOW` for images that show a brain only: 1.2 to 1.4 for T1, 2.1 for T2,
2.5 for autofluorescence, 2.7 for T1 inverted, whose brightest voxels are a thin rim."""

MIN_MASKED_FRACTION = 0.5
"""Fraction of the content (of the brain in a head) that a user's mask keeps; a mask with less is doubtful."""
