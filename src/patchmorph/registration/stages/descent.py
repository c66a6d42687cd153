"""Gradient descent as an explicit state that takes steps until it is done."""

import math
from abc import ABC, abstractmethod

from patchmorph import progress
from patchmorph.transforms.base import Transform


class Descent(ABC):
    """The state of a minimisation over transforms.

    Contract: ``step`` changes the state, ``is_done`` says when to stop, and ``transform`` is the map of the
    state at any time.
    """

    @property
    @abstractmethod
    def is_done(self) -> bool:
        """Whether further steps would gain nothing, or none are left."""

    @property
    @abstractmethod
    def limit(self) -> int:
        """Steps, at most."""

    @abstractmethod
    def step(self) -> None:
        """One step, or one pass of steps over the image."""

    @property
    @abstractmethod
    def transform(self) -> Transform:
        """The map of the current state."""

    def run(self) -> Transform:
        """Step until done."""
        with progress.step("steps", self.limit) as steps:
            while not self.is_done:
                self.step()
                progress.advance(steps)
        return self.transform


def half_cosine(progress: float) -> float:
    """Step length as a fraction of the first, from 1 at the start to 0 at the end (``progress`` 0 to 1)."""
    return (1 + math.cos(math.pi * progress)) / 2
