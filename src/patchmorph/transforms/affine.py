"""Affine maps of the world."""

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.affine import apply_affine, from_linear, from_translation, invert_affine
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

    @classmethod
    def nearest(cls, points: Float[Tensor, "b n 3"], mapped: Float[Tensor, "b n 3"]) -> "AffineTransform":
        """The affine map that takes ``points`` to ``mapped`` with the least squares of distances."""
        columns = torch.cat([points.double(), torch.ones_like(points[..., :1], dtype=torch.float64)], dim=-1)
        solution = torch.linalg.lstsq(columns, mapped.double()).solution  # [b, 4, 3]
        return cls(from_linear(solution[:, :3].mT, solution[:, 3]))

    def __call__(self, points: Float[Tensor, "#b *n 3"]) -> Float[Tensor, "_ *n 3"]:
        """Where ``points`` go."""
        return apply_affine(self.matrix, points)

    def inverse(self) -> "AffineTransform":
        """The inverse matrix."""
        return AffineTransform(invert_affine(self.matrix))

    def to(self, device: torch.device | str) -> "AffineTransform":
        """The same map on another device."""
        return AffineTransform(self.matrix.to(device))
