"""What a user may choose of a registration."""

from dataclasses import dataclass, replace

from patchmorph.errors import PatchMorphError
from patchmorph.objective.objective import SIMILARITIES


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

    Raises:
        PatchMorphError: a negative number of passes, or an unknown similarity.
    """

    refine: int | None = None
    jitter: bool = False
    uncertainty: bool = False
    seed: int = 0
    similarity: str = "lncc"

    def __post_init__(self) -> None:
        if self.refine is not None and self.refine < 0:
            raise PatchMorphError(f"refine must be 0 or more, got {self.refine}")
        if self.similarity not in SIMILARITIES:
            raise PatchMorphError(
                f"similarity must be one of {', '.join(SIMILARITIES)}, got {self.similarity}"
            )

    def without_refinement(self) -> "RegistrationOptions":
        """The same options, for networks alone."""
        return replace(self, refine=0)
