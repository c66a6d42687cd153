"""Intensity maps, which are applied when voxels are read."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patchmorph.images.abstract import AbstractImage
from patchmorph.spatial.grid import Grid


class IntensityMap(ABC):
    """Contract: a function of the float32 voxels of a block and of the grid of that block."""

    @abstractmethod
    def __call__(self, values: Float[Tensor, "1 c x y z"], grid: Grid) -> Float[Tensor, "1 c x y z"]:
        """The mapped values of the voxels of ``grid``."""


@dataclass(frozen=True)
class Window(IntensityMap):
    """Map ``low`` to 0 and ``high`` to 1 (exchanged if ``inverted``); intensities beyond are clamped.

    Attributes:
        low: intensity that becomes 0.
        high: intensity that becomes 1.
        inverted: whether the background is bright.
        empty_below: intensities below become 0 whether inverted or not, since they show nothing.
        empty_above: this intensity and those above, likewise.
        background: this intensity and those that are not finite, likewise; ``None``: neither.
        stray_above: this intensity and those above belong to stray bright voxels, which become 1 as all above
            ``high`` (see `patchmorph.images.padding`).
    """

    low: float
    high: float
    inverted: bool = False
    empty_below: float = -math.inf
    empty_above: float = math.inf
    background: float | None = None
    stray_above: float = math.inf

    def __call__(self, values: Float[Tensor, "1 c x y z"], grid: Grid) -> Float[Tensor, "1 c x y z"]:
        """Values from 0 to 1."""
        width = float(np.float32(self.high) - np.float32(self.low))
        scaled = (values - self.low).clamp_(min=0).div_(width).clamp_(max=1)
        scaled = 1 - scaled if self.inverted else scaled
        return scaled.masked_fill(self.is_empty(values), 0) if self.leaves_out else scaled

    @property
    def leaves_out(self) -> bool:
        """Whether some intensities show nothing."""
        ends = math.isfinite(self.empty_below) or math.isfinite(self.empty_above)
        return ends or self.background is not None

    def is_empty(self, values: Float[Tensor, "*n"]) -> Bool[Tensor, "*n"]:
        """Whether each voxel shows nothing."""
        beyond = (values < self.empty_below) | (values >= self.empty_above)
        return beyond if self.background is None else beyond | is_background(values, self.background)


def is_background(values: Float[Tensor, "*n"], background: float) -> Bool[Tensor, "*n"]:
    """Whether each voxel has the intensity ``background`` or is not finite."""
    return ~values.isfinite() | (values == background)


@dataclass(frozen=True)
class Inside(IntensityMap):
    """One where intensities are from ``low`` up to, but not including, ``high``; zero elsewhere."""

    low: float
    high: float = math.inf

    def __call__(self, values: Float[Tensor, "1 c x y z"], grid: Grid) -> Float[Tensor, "1 c x y z"]:
        """Zero or one."""
        return ((values >= self.low) & (values < self.high)).float()


@dataclass(frozen=True)
class Empty(IntensityMap):
    """One where intensities show nothing in a window; zero elsewhere."""

    window: Window

    def __call__(self, values: Float[Tensor, "1 c x y z"], grid: Grid) -> Float[Tensor, "1 c x y z"]:
        """Zero or one."""
        return self.window.is_empty(values).float()


@dataclass(frozen=True)
class NonZero(IntensityMap):
    """One inside a mask: where values are neither zero nor NaN."""

    def __call__(self, values: Float[Tensor, "1 c x y z"], grid: Grid) -> Float[Tensor, "1 c x y z"]:
        """Zero or one."""
        return ((values != 0) & ~values.isnan()).float()


@dataclass(frozen=True)
class Masked(IntensityMap):
    """Set voxels to zero where ``mask`` does not exceed ``threshold``.

    The mask is sampled at ``spacing_mm``, or at the spacing of the voxels where these are coarser.
    """

    mask: AbstractImage
    threshold: float
    spacing_mm: float

    def __call__(self, values: Float[Tensor, "1 c x y z"], grid: Grid) -> Float[Tensor, "1 c x y z"]:
        """The values, zero outside the mask."""
        spacing_mm = max(self.spacing_mm, float(grid.spacing_mm.min()))
        return values * (self.mask.sample(grid.points_world(), spacing_mm) > self.threshold)


@dataclass(frozen=True)
class Curve(IntensityMap):
    """Piecewise linear curve through ``knots`` at equal steps from 0 to 1; zero up to ``background``."""

    knots: Float[Tensor, " k"]
    background: float

    def __call__(self, values: Float[Tensor, "1 c x y z"], grid: Grid) -> Float[Tensor, "1 c x y z"]:
        """The curve at the values."""
        last = len(self.knots) - 1
        place = values.clamp(0, 1) * last
        lower = place.floor().clamp(max=last - 1).long()
        mapped = self.knots[lower] + (self.knots[lower + 1] - self.knots[lower]) * (place - lower)
        return torch.where(values > self.background, mapped, 0)
