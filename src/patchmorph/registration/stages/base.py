"""What a stage of a registration is, and a stage that is checked."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from patchmorph.registration.pair import PreparedPair
from patchmorph.transforms.base import Transform


class Stage(ABC):
    """One step of the fold ``transform = stage.refine(pair, transform)``.

    Contract: a stage registers the fixed image to the moving image as already warped, so its residual is
    composed on the inner side: ``transform @ residual``. A stage reads the pair and changes nothing.
    """

    @property
    @abstractmethod
    def label(self) -> str:
        """What is done, for a user who waits."""

    @abstractmethod
    def refine(self, pair: PreparedPair, transform: Transform) -> Transform:
        """A better map from the fixed to the moving world than ``transform``."""


@dataclass(frozen=True)
class GuardedStage(Stage):
    """A stage whose result is dropped where a check rejects it.

    Attributes:
        stage: the stage.
        accepts: the check, of the pair and the maps before and after.
    """

    stage: Stage
    accepts: Callable[[PreparedPair, Transform, Transform], bool]

    @property
    def label(self) -> str:
        """That of the stage."""
        return self.stage.label

    def refine(self, pair: PreparedPair, transform: Transform) -> Transform:
        """The result of the stage if it is accepted, else ``transform``."""
        found = self.stage.refine(pair, transform)
        return found if self.accepts(pair, transform, found) else transform
