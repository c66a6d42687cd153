"""A volume on its own grid that answers what it looks like at any point and resolution."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.images.pyramid import downsample, level_spacing
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.sampling import sample_linear

Face = tuple[int, int]
"""Of an array: its axis, and 0 for the first or 1 for the last voxels along it."""


@runtime_checkable
class ImageSource(Protocol):
    """Anything that has an intensity at every point of the world."""

    def sample(self, points_world: Float[Tensor, "#b *n 3"], spacing_mm: float) -> Float[Tensor, "_ c *n"]:
        """Intensities at ``points_world`` (RAS+ mm), no detail below ``spacing_mm``; zero outside."""
        ...

    def known(self, points_world: Float[Tensor, "#b *n 3"]) -> Bool[Tensor, "_ *n"] | None:
        """Where the image says what there is, even if that is nothing; ``None``: everywhere."""
        ...

    def outward(self) -> list[Float[Tensor, " 3"]]:
        """Unit vectors along the world axes towards where it goes on without being known."""
        ...


class Image:
    """One volume in memory.

    Attributes:
        data: ``[1, C, X, Y, Z]`` in nibabel's array order, any number type.
        grid: one grid of the same shape.
        name: what to call it in messages, usually its path.
        cuts: faces of the array beyond which what it shows goes on.
    """

    def __init__(
        self, data: Num[Tensor, "1 c x y z"], grid: Grid, name: str = "image", cuts: tuple[Face, ...] = ()
    ):
        assert tuple(data.shape[2:]) == grid.shape, f"data {tuple(data.shape)} on a grid of {grid.shape}"
        self.data = data
        self.grid = grid
        self.name = name
        self.cuts = cuts
        self.spacing_mm = tuple(grid.spacing_mm[0].tolist())
        self._normalized: Image | None = None
        self._levels: dict[tuple[float, ...], Image] = {}

    def level(self, spacing_mm: float) -> "Image":
        """The pyramid level that serves ``spacing_mm``; computed once."""
        wanted = level_spacing(self.spacing_mm, spacing_mm)
        if wanted == self.spacing_mm:
            return self
        if wanted not in self._levels:
            data, grid = downsample(self.data.float(), self.grid, wanted)
            self._levels[wanted] = Image(data, grid, self.name)
        return self._levels[wanted]

    def sample(self, points_world: Float[Tensor, "#b *n 3"], spacing_mm: float) -> Float[Tensor, "_ c *n"]:
        """Linear interpolation in the level that serves ``spacing_mm``; zero outside (see `ImageSource`)."""
        level = self.level(spacing_mm)
        return sample_linear(level.data.float(), points_world, "zeros", level.grid.world_to_voxel)

    def known(self, points_world: Float[Tensor, "#b *n 3"]) -> Bool[Tensor, "_ *n"] | None:
        """Which points do not lie beyond a face of ``cuts`` (see `ImageSource`)."""
        if not self.cuts:
            return None
        voxel = self.grid.to_voxel(points_world)
        inside = torch.ones_like(voxel[..., 0], dtype=torch.bool)
        for axis, side in self.cuts:
            coordinate = voxel[..., axis]
            inside &= coordinate < self.grid.shape[axis] - 0.5 if side else coordinate > -0.5
        return inside

    def outward(self) -> list[Float[Tensor, " 3"]]:
        """Unit vectors that point out of the faces of ``cuts`` (see `ImageSource`)."""
        columns = self.grid.voxel_to_world[0, :3, :3].T
        return [(2 * side - 1) * columns[axis] / columns[axis].norm() for axis, side in self.cuts]

    def normalized(self) -> "Image":
        """The image with intensities from 0 to 1, computed once.

        0 is the first percentile, so that a few voxels far below the background (undershoot of a resampling,
        say) do not lift it; 1 is the 99.8th percentile of what is above. Where most of the array's faces are
        bright, the background is: then intensities are turned round, so that it becomes 0.

        Raises:
            PatchMorphError: the image has values that are not finite, or only one value.
        """
        if self._normalized is not None:
            return self._normalized
        data = self.data.float()
        if not torch.isfinite(data).all():
            count = int((~torch.isfinite(data)).sum())
            raise PatchMorphError(
                f"image must be finite everywhere, got {count} NaN or infinite voxels in {self.name}"
            )
        darkest = data.flatten().topk(max(1, round(0.01 * data.numel())), largest=False, sorted=False).values
        data = (data - darkest.max()).clamp_(min=0)
        above = data[data > 0]
        if above.numel() == 0:
            value = self.data.flatten()[0].item()
            raise PatchMorphError(f"image must have content, got {value:g} in every voxel of {self.name}")
        brightest = above.topk(max(1, round(0.002 * above.numel())), sorted=False).values
        data = (data / brightest.min()).clamp_(max=1)
        if _faces(data).median() > 0.5:  # dark on a bright background: what matters is the difference to it
            data = 1 - data
        self._normalized = Image(data, self.grid, self.name)
        return self._normalized

    def to(self, device: torch.device | str) -> "Image":
        """The same image on another device."""
        return Image(self.data.to(device), self.grid.to(device), self.name, self.cuts)


def _faces(data: Float[Tensor, "1 c x y z"]) -> Float[Tensor, " n"]:
    """The voxels on the six faces of the array."""
    ends = [
        data.index_select(axis, torch.tensor([0, data.shape[axis] - 1], device=data.device))
        for axis in (2, 3, 4)
    ]
    return torch.cat([end.flatten() for end in ends])
