"""Composition of transforms."""

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.base import Transform


class Chain(Transform):
    """``(t₀ ∘ t₁ ∘ … ∘ tₙ)(x)``: the last part acts first. Made by ``@``."""

    def __init__(self, parts: tuple[Transform, ...]):
        self._parts = parts

    def __call__(self, points: Float[Tensor, "#b *n 3"]) -> Float[Tensor, "_ *n 3"]:
        """Where ``points`` go."""
        for part in reversed(self._parts):
            points = part(points)
        return points

    def inverse(self) -> "Chain":
        """The parts' inverses in reverse order."""
        return Chain(tuple(part.inverse() for part in reversed(self._parts)))

    def to(self, device: torch.device | str) -> "Chain":
        """The same chain on another device."""
        return Chain(tuple(part.to(device) for part in self._parts))

    def parts(self) -> tuple[Transform, ...]:
        """The composed transforms, outermost first."""
        return self._parts


def compose(outer: Transform, inner: Transform) -> Transform:
    """``outer ∘ inner`` as one flat chain; affine neighbours become one matrix, multiplied in float64."""
    parts: list[Transform] = list(outer.parts())
    for part in inner.parts():
        last = parts[-1]
        if isinstance(last, AffineTransform) and isinstance(part, AffineTransform):
            parts[-1] = AffineTransform(last.matrix @ part.matrix)
        else:
            parts.append(part)
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))
