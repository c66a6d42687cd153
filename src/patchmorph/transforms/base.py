"""Transforms, affine maps and chains: one module, since composition is defined by all three."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.affine import apply_affine, from_linear, from_translation, invert_affine
from patchmorph.spatial.grid import Grid


class Transform(ABC):
    """A map from world points to world points.

    Contract: ``transform(x)`` takes float32 points ``[B, ..., 3]`` in RAS+ mm and returns the mapped points.
    Registration transforms pull back: they map fixed world to moving world, so that
    ``warped(x) = moving(transform(x))``. ``(outer @ inner)(x) = outer(inner(x))``, and
    ``transform.inverse()(transform(x))`` is ``x`` up to interpolation. A transform of one batch entry applies
    to points of any batch size. A point that is not mapped is NaN, and stays NaN. Subclasses are final;
    combine them with ``@``.
    """

    @abstractmethod
    def __call__(self, points: Float[Tensor, "#b *n 3"]) -> Float[Tensor, "_ *n 3"]:
        """The mapped ``points`` (RAS+ mm)."""

    def at_grid(self, grid: Grid) -> Float[Tensor, "_ x y z 3"]:
        """The mapped points of ``grid`` (RAS+ mm); faster than a call where a field is parallel to it."""
        return self(grid.points_world())

    @abstractmethod
    def inverse(self) -> "Transform":
        """The inverse transform."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "Transform":
        """The same transform on another device."""

    def support(self) -> Grid | None:
        """The grid beyond which (by more than one voxel) no point moves; ``None`` if there is none."""
        return None

    def parts(self) -> tuple["Transform", ...]:
        """The transforms that this one is composed of, outermost first."""
        return (self,)

    def affine_part(self) -> "AffineTransform":
        """The outermost part if it is affine, else the identity; regularity terms exclude it."""
        first = self.parts()[0]
        return first if isinstance(first, AffineTransform) else AffineTransform.identity()

    def __matmul__(self, inner: "Transform") -> "Transform":
        return compose(self, inner)


class AffineTransform(Transform):
    """``x ↦ matrix x``, with ``matrix`` float64 ``[B, 4, 4]`` in RAS+ mm."""

    def __init__(self, matrix: Float[Tensor, "b 4 4"]):
        self.matrix = matrix.double()

    @classmethod
    def identity(cls) -> "AffineTransform":
        """The identity."""
        return cls(torch.eye(4, dtype=torch.float64)[None])

    @classmethod
    def translation(cls, shift_mm: Float[Tensor, "b 3"]) -> "AffineTransform":
        """The translation by ``shift_mm`` along the world axes."""
        return cls(from_translation(shift_mm.double()))

    @classmethod
    def nearest(cls, points: Float[Tensor, "b n 3"], mapped: Float[Tensor, "b n 3"]) -> "AffineTransform":
        """The least-squares affine map from ``points`` to ``mapped``."""
        columns = torch.cat([points.double(), torch.ones_like(points[..., :1], dtype=torch.float64)], dim=-1)
        solution = torch.linalg.lstsq(columns, mapped.double()).solution  # [b, 4, 3]
        return cls(from_linear(solution[:, :3].mT, solution[:, 3]).cpu())

    @classmethod
    def nearest_rigid(
        cls, points: Float[Tensor, "b n 3"], mapped: Float[Tensor, "b n 3"]
    ) -> "AffineTransform":
        """The least-squares rotation and shift from ``points`` to ``mapped`` (Kabsch 1976; Umeyama 1991)."""
        source, target = points.double(), mapped.double()
        centers = source.mean(1, keepdim=True), target.mean(1, keepdim=True)
        left, _, right = torch.linalg.svd((source - centers[0]).mT @ (target - centers[1]))
        signs = torch.ones_like(left[:, 0])
        signs[:, 2] = torch.linalg.det(left @ right)  # no reflection
        rotation = (left * signs[:, None] @ right).mT
        return cls(from_linear(rotation, (centers[1] - centers[0] @ rotation.mT)[:, 0]).cpu())

    def remainder(
        self, points: Float[Tensor, "#b *n 3"], mapped: Float[Tensor, "b *n 3"]
    ) -> Float[Tensor, "b *n 3"]:
        """``A⁻¹ y − x`` in mm: the displacement of a map x ↦ y without its affine part A (this transform)."""
        return self.inverse()(mapped) - points

    def __repr__(self) -> str:
        linear, shift = self.matrix[0, :3, :3], self.matrix[0, :3, 3]
        if not self.matrix.isfinite().all():
            return "AffineTransform(not finite)"
        scales = ", ".join(f"{value:.4g}" for value in torch.linalg.svdvals(linear).tolist())
        left, _, right = torch.linalg.svd(linear)
        cosine = float((torch.trace(left @ right) - 1) / 2)
        degrees = math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
        moved = ", ".join(f"{value:.4g}" for value in shift.tolist())
        return f"AffineTransform(rotation {degrees:.4g}°, scales {scales}, translation ({moved}) mm)"

    def __call__(self, points: Float[Tensor, "#b *n 3"]) -> Float[Tensor, "_ *n 3"]:
        """The mapped ``points``."""
        return apply_affine(self.matrix, points)

    def inverse(self) -> "AffineTransform":
        """The transform of the inverse matrix."""
        return AffineTransform(invert_affine(self.matrix))

    def to(self, device: torch.device | str) -> "AffineTransform":
        """The same map; its matrix is kept in the processor's memory, wherever the points are."""
        return AffineTransform(self.matrix.cpu())


class Chain(Transform):
    """``(t₀ ∘ t₁ ∘ … ∘ tₙ)(x)``: the last part is applied first. Created by ``@``."""

    def __init__(self, parts: tuple[Transform, ...]):
        self._parts = parts

    def __repr__(self) -> str:
        return f"Chain({' @ '.join(map(repr, self._parts))})"

    def __call__(self, points: Float[Tensor, "#b *n 3"]) -> Float[Tensor, "_ *n 3"]:
        """The mapped ``points``."""
        for part in reversed(self._parts):
            points = part(points)
        return points

    def at_grid(self, grid: Grid) -> Float[Tensor, "_ x y z 3"]:
        """The mapped points of ``grid``."""
        *outer, innermost = self._parts
        points = innermost.at_grid(grid)
        for part in reversed(outer):
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


def compose(*transforms: Transform) -> Transform:
    """``t₀ ∘ t₁ ∘ …`` as one flat chain, the last applied first; the identity without arguments.

    Adjacent affine parts are multiplied into one matrix in float64.
    """
    parts: list[Transform] = []
    for part in (part for transform in transforms for part in transform.parts()):
        last = parts[-1] if parts else None
        if isinstance(last, AffineTransform) and isinstance(part, AffineTransform):
            parts[-1] = AffineTransform(last.matrix @ part.matrix)
        else:
            parts.append(part)
    if not parts:
        return AffineTransform.identity()
    return parts[0] if len(parts) == 1 else Chain(tuple(parts))
