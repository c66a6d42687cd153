"""Where a map from a file is not defined."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from patchmorph.spatial.grid import Grid
from patchmorph.spatial.sampling import sample_linear
from patchmorph.transforms.base import Transform

MAX_WEIGHT = 0.01
"""Trilinear weight of missing voxels above which a point is not mapped; less is rounding."""


class Gaps(Transform):
    """``x ↦ x``, except at points next to missing voxels, which become NaN: they are not mapped.

    A field with missing voxels is read as ``field @ Gaps(missing, grid)``, with finite values in the voxels
    that are missing. All transforms map NaN to NaN, and a resampled image has the background there.

    Attributes:
        missing: ``[1, 1, X, Y, Z]``, true at voxels without a value.
        grid: grid of the voxels; points beyond it are left alone.
    """

    def __init__(self, missing: Bool[Tensor, "1 1 x y z"], grid: Grid):
        self.missing = missing
        self.grid = grid

    def __repr__(self) -> str:
        return f"Gaps({int(self.missing.sum())} of {self.grid.description})"

    def __call__(self, points: Float[Tensor, "#b *n 3"]) -> Float[Tensor, "_ *n 3"]:
        """The same ``points``, NaN where they are not mapped."""
        weight = sample_linear(self.missing.float(), points, "zeros", self.grid.world_to_voxel)
        return torch.where(weight.movedim(1, -1) > MAX_WEIGHT, torch.nan, points)

    def inverse(self) -> "Gaps":
        """The same map: points that it keeps are its own inverse."""
        return self

    def support(self) -> Grid:
        """The grid of the voxels."""
        return self.grid

    def to(self, device: torch.device | str) -> "Gaps":
        """The same map on another device."""
        return Gaps(self.missing.to(device), self.grid.to(device))


def missing_voxels(transform: Transform) -> int:
    """Number of voxels that the fields of ``transform`` have no value for."""
    return sum(int(part.missing.sum()) for part in transform.parts() if isinstance(part, Gaps))


def filled_gaps(
    values: Float[Tensor, "1 c x y z"], missing: Bool[Tensor, "1 1 x y z"]
) -> Float[Tensor, "1 c x y z"]:
    """``values``, in missing voxels those of the smallest block (2³, 4³, … voxels) that has known ones.

    A block has the mean of its known halves; zero if nothing is known. No mapped point depends on them, but
    the inverse of a field reads them. This is the first half of pull-push (Gortler et al., SIGGRAPH 1996).
    """
    known = torch.where(missing, 0, values)
    if missing.numel() == 1 or not missing.any():
        return known
    x, y, z = missing.shape[2:]
    block = (min(2, x), min(2, y), min(2, z))
    sums, shares = (
        functional.avg_pool3d(each, block, ceil_mode=True) for each in (known, (~missing).float())
    )
    blocks = filled_gaps(sums / shares.clamp(min=1 / 8), shares == 0)
    repeated = functional.interpolate(blocks, scale_factor=tuple(map(float, block)))
    return torch.where(missing, repeated[..., :x, :y, :z], known)
