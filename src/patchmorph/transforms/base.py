"""What a transform is."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.grid import Grid


class Transform(ABC):
    """A map of the world into the world.

    Contract: ``transform(x)`` takes float32 points ``[B, ..., 3]`` in RAS+ mm and returns where each goes.
    Registration transforms pull back: they map fixed world to moving world, so that
    ``warped(x) = moving(transform(x))``. ``(outer @ inner)(x) = outer(inner(x))``, and
    ``transform.inverse()(transform(x))`` is ``x`` up to interpolation. A transform of one batch entry serves
    points of any batch. Classes are final; build on them with ``@``.
    """

    @abstractmethod
    def __call__(self, points: Float[Tensor, "#b *n 3"]) -> Float[Tensor, "_ *n 3"]:
        """Where ``points`` (RAS+ mm) go."""

    @abstractmethod
    def inverse(self) -> "Transform":
        """The map back."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "Transform":
        """The same transform on another device."""

    def support(self) -> Grid | None:
        """The grid outside of which (by a voxel) it moves nothing; ``None``: it may move anything."""
        return None

    def parts(self) -> tuple["Transform", ...]:
        """The transforms that this one is composed of, outermost first."""
        return (self,)

    def __matmul__(self, inner: "Transform") -> "Transform":
        from patchmorph.transforms.chain import compose

        return compose(self, inner)
