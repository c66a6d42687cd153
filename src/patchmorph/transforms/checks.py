"""Checks of a transform on a whole grid: where it folds, where its inverse misses, how far another is off."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.affine import apply_affine
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import Transform
from patchmorph.transforms.inverse import round_trip_mm
from patchmorph.transforms.jacobian import DIFFERENCES, Differences, Folding, folding, jacobian_determinant

MAX_ERROR_MM = 0.01
"""Largest error of a correct inverse; points above it have failed."""
COMPARED_POINTS = 100_000
"""Points of a grid, about, in which two transforms are compared."""


@dataclass(frozen=True)
class JacobianCheck:
    """The Jacobian determinant of a transform on a grid.

    Attributes:
        determinants: by either kind of differences; NaN where the transform does not map the points.
        folding: cells that the transform inverts.
    """

    determinants: dict[Differences, Float[Tensor, "x y z"]]
    folding: Folding

    @classmethod
    def of(cls, transform: Transform, grid: Grid) -> "JacobianCheck":
        """Measure ``transform`` on a ``grid`` of batch size one."""
        by: dict[Differences, Tensor] = {
            name: jacobian_determinant(transform, grid, name) for name in DIFFERENCES
        }
        return cls(by, folding(transform, grid))

    @property
    def is_mapped(self) -> bool:
        """Whether there is a determinant of either kind anywhere."""
        return all(self.mapped(name).numel() for name in DIFFERENCES)

    def mapped(self, differences: Differences) -> Float[Tensor, " n"]:
        """The determinants that are not NaN."""
        values = self.determinants[differences]
        return values[~values.isnan()]

    def unmapped(self, differences: Differences) -> int:
        """Number of voxels whose determinant is NaN."""
        return int(self.determinants[differences].isnan().sum())

    def folding_percent(self, differences: Differences) -> float:
        """Percentage of the mapped voxels whose determinant is not positive."""
        return 100 * float((self.mapped(differences) <= 0).float().mean())


@dataclass(frozen=True)
class InverseCheck:
    """The round-trip error of an inverse on a grid: how many points have which.

    Attributes:
        points: of the grid.
        failed: those that the inverse misses by over `MAX_ERROR_MM`.
        unmapped: those that are not mapped.
    """

    points: int
    failed: int
    unmapped: int

    @classmethod
    def of(cls, misses: Iterable[Float[Tensor, "..."]]) -> "InverseCheck":
        """Count points by the distances of `round_trip_mm`, in blocks of any shape."""
        points = failed = unmapped = 0
        for miss in misses:
            points += miss.numel()
            failed += int((miss > MAX_ERROR_MM).sum())
            unmapped += int(miss.isnan().sum())
        return cls(points, failed, unmapped)


def miss_blocks(transform: Transform, inverse: Transform, grid: Grid) -> Iterator[Float[Tensor, "x y z"]]:
    """`round_trip_mm` on the blocks of a ``grid``, one at a time."""
    return (round_trip_mm(transform, inverse, block) for _, block in grid.blocks())


def mean_distance_mm(transform: Transform, other: Transform, grid: Grid) -> float:
    """Mean distance between both images of a point, over about `COMPARED_POINTS` mapped ones of ``grid``."""
    count = math.prod(grid.shape)
    chosen = torch.arange(0, count, max(1, count // COMPARED_POINTS), device=grid.device)
    voxels = torch.stack(torch.unravel_index(chosen, grid.shape), -1).float()[None]
    points = apply_affine(grid.voxel_to_world, voxels)
    with torch.no_grad():
        return float((transform(points) - other(points)).norm(dim=-1).nanmean())


def finest_support(transform: Transform) -> Grid | None:
    """The finest of the grids that support fields of ``transform``; ``None`` if there are none."""
    grids = [grid for part in transform.parts() if (grid := part.support()) is not None]
    return min(grids, key=lambda grid: float(grid.spacing_mm.min()), default=None)
