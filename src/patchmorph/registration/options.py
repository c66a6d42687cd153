"""What a user may choose of a registration."""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

from patchmorph.errors import PatchMorphError
from patchmorph.objective.objective import SIMILARITIES

RIGID, AFFINE, DEFORMABLE = TRANSFORMS = ("rigid", "affine", "deformable")
"""Kinds of maps: rotation and shift, any matrix, or a matrix and velocity fields."""

NATIVE = "native"
"""The finest scale that is that of the images' voxels."""


class Preset(NamedTuple):
    """How much a deformable registration takes on.

    Attributes:
        skipped_scales: finest scales that the networks leave out.
        passes: of refinement after the networks, at most, for one contrast or two that were brought into one.
        between_contrasts: whether a map between two contrasts that cannot be brought into one is refined by
            what they share.
    """

    skipped_scales: int = 0
    passes: int = 0
    between_contrasts: bool = True


FAST, NORMAL, BEST = "fast", "default", "best"
PRESETS = {FAST: Preset(1, 0, False), NORMAL: Preset(), BEST: Preset(passes=12)}
"""Presets by name; ``benchmarks/presets.py`` measures what they bring and take."""


@dataclass(frozen=True)
class RegistrationOptions:
    """Options of a registration.

    Attributes:
        refine: passes of refinement over the content on each scale, at most; 0: no refinement; ``None``: as
            the schedule has it for this kind of registration (see `patchmorph.registration.schedule`).
        jitter: shift the networks' patches at random instead of a regular lattice.
        uncertainty: keep the disagreement of overlapping patches (see `Registration.uncertainty`).
        seed: of every random draw.
        similarity: what refinement compares the images by: a name in `SIMILARITIES`.
        transform: kind of the map: a name in `TRANSFORMS`.
        preset: a name in `PRESETS`; ``refine`` overrides what it says of refinement, ``finest`` what it says
            of scales.
        finest: voxel size of the finest patches, mm, or `NATIVE`; ``None``: as model and preset have it (see
            `patchmorph.registration.scales`).

    Raises:
        PatchMorphError: an unknown kind of map, preset or similarity, a negative number of passes, a finest
            scale that is no size, or refinement, uncertainty or a finest scale of a map that is not
            deformable.
    """

    refine: int | None = None
    jitter: bool = False
    uncertainty: bool = False
    seed: int = 0
    similarity: str = "lncc"
    transform: str = DEFORMABLE
    preset: str = NORMAL
    finest: float | str | None = None

    def __post_init__(self) -> None:
        if self.transform not in TRANSFORMS:
            raise PatchMorphError(f"transform must be one of {', '.join(TRANSFORMS)}, got {self.transform}")
        if self.preset not in PRESETS:
            raise PatchMorphError(f"preset must be one of {', '.join(PRESETS)}, got {self.preset}")
        for what in ("refine", "uncertainty", "finest"):
            if self.is_linear and getattr(self, what):
                raise PatchMorphError(f"{what} must be that of a deformable transform, got {self.transform}")
        if self.finest not in (None, NATIVE) and not is_size(self.finest):
            raise PatchMorphError(f"finest must be {NATIVE} or a size above 0 in mm, got {self.finest}")
        if self.refine is not None and self.refine < 0:
            raise PatchMorphError(f"refine must be 0 or more, got {self.refine}")
        if self.similarity not in SIMILARITIES:
            raise PatchMorphError(
                f"similarity must be one of {', '.join(SIMILARITIES)}, got {self.similarity}"
            )

    @property
    def is_linear(self) -> bool:
        """Whether the map is one matrix."""
        return self.transform != DEFORMABLE

    @property
    def takes(self) -> Preset:
        """What the preset takes on."""
        return PRESETS[self.preset]

    @property
    def passes_after_networks(self) -> int:
        """Passes of refinement of a map that networks found, at most; a matrix is not refined."""
        if self.is_linear:
            return 0
        return self.takes.passes if self.refine is None else self.refine

    @property
    def refines_between_contrasts(self) -> bool:
        """Whether a map between two contrasts is refined by what they share."""
        return self.refine is None and not self.is_linear and self.takes.between_contrasts

    def without_refinement(self) -> "RegistrationOptions":
        """The same options, for networks alone."""
        return replace(self, refine=0)


def is_size(value: float | str | None) -> bool:
    """Whether a value is a number that can be a length."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
