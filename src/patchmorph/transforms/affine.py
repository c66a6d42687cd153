"""Affine maps of the world."""

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.affine import apply_affine, from_translation, invert_affine
from patchmorph.transforms.base import Transform


class AffineTransform(Transform):
    """``x ↦ matrix x``, with ``matrix`` float64 ``[B, 4, 4]`` in RAS+ mm."""

    def __init__(self, matrix: Float[Tensor, "b 4 4"]):
        self.matrix = matrix.double()

    @classmethod
    def identity(cls, device: torch.device | str = "cpu") -> "AffineTransform":
        """The map that moves nothing."""
        return cls(torch.eye(4, dtype=torch.float64, device=device)[None])

    @classmethod
    def translation(cls, shift_mm: Float[Tensor, "b 3"]) -> "AffineTransform":
        """A shift along the world axes."""
        return cls(from_translation(shift_mm.double()))

    def __call__(self, points: Float[Tensor, "#b *n 3"]) -> Float[Tensor, "_ *n 3"]:
        """Where ``points`` go."""
        return apply_affine(self.matrix, points)

    def inverse(self) -> "AffineTransform":
        """The inverse matrix."""
        return AffineTransform(invert_affine(self.matrix))

    def to(self, device: torch.device | str) -> "AffineTransform":
        """The same map on another device."""
        return AffineTransform(self.matrix.to(device))
