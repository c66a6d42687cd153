"""The window of intensities of a volume, measured where that is cheap."""

import functools
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Num
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.images.exports import Exportable
from patchmorph.images.field_of_view import FACES, Face
from patchmorph.images.histogram import OrderStatistics, sorted_or_counted
from patchmorph.images.intensity import Window
from patchmorph.images.normalization import (
    background_below,
    background_within,
    is_far_below,
    normalizing_window,
    voxel_statistics,
)
from patchmorph.images.padding import MAX_WINDOW
from patchmorph.spatial.grid import BLOCK_SIDE, VoxelBox, triple

CUDA_SIDE = 256
"""Voxels along each side of the blocks of a volume on CUDA, where small blocks wait for launches. Views of
volumes that are no larger are kept there."""


class Windowed(Exportable):
    """A volume that is read box by box, and the window of its intensities.

    Attributes:
        background: see `patchmorph.images.volume.AbstractVolume`.
    """

    background: float | None = None

    @property
    @abstractmethod
    def overview(self) -> "Windowed":
        """The volume itself, or a coarser version that stands for it in measurements of all voxels."""

    @abstractmethod
    def read(self, box: VoxelBox) -> Num[Tensor, "1 c x y z"]:
        """The voxels of ``box``, which must lie inside the grid."""

    def values(self) -> Num[Tensor, "1 c x y z"]:
        """All voxels at once: for pyramid levels and other small volumes."""
        return self.read(VoxelBox((0, 0, 0), self.grid.shape))

    def blocks(self) -> Iterator[tuple[VoxelBox, Num[Tensor, "1 c x y z"]]]:
        """The voxels block by block, each block with its box in the grid."""
        for box, _ in self.grid.blocks(CUDA_SIDE if self.grid.device.type == "cuda" else BLOCK_SIDE):
            yield box, self.read(box)

    def face(self, face: Face) -> Num[Tensor, " n"]:
        """The outermost voxels at one face of the array, flattened."""
        axis, side = face
        start, shape = [0, 0, 0], list(self.grid.shape)
        start[axis], shape[axis] = side * (shape[axis] - 1), 1
        return self.read(VoxelBox.at(triple(start), triple(shape))).flatten()

    def intensity_range(self) -> tuple[float, float]:
        """The intensities that normalisation maps to 0 and 1 (to 1 and 0 if the background is bright)."""
        window = self._window
        return window.low, window.high

    def window(self, widest: float = MAX_WINDOW) -> Window:
        """The window of `normalizing_window`, whose faces are those of the array.

        The background is that of `background_within` if it is not known, or a negative one far below all
        other intensities.
        """
        if self.overview is not self:
            return self.overview.window(widest)
        if widest not in self._windows:
            window = self._window_above(self.background, widest)
            if self.background is None:
                window = self._above_background(window, widest)
            self._windows[widest] = window
        return self._windows[widest]

    def _above_background(self, window: Window, widest: float) -> Window:
        """``window`` without the background that the faces show, where they show one."""
        if (within := background_within(window, self._faces)) is not None:
            return self._window_above(within, widest)
        if (below := background_below(window, self._faces)) is None:
            return window
        try:
            others = self._window_above(below, widest)
        except PatchMorphError:  # one intensity only, as in a mask of −1 and 1
            return window
        if not is_far_below(below, others):
            return window
        return replace(others, low=min(others.low, 0.0))  # of a brain in zeros, the usual ones

    def _window_above(self, background: float | None, widest: float) -> Window:
        if background not in self._statistics:
            voxels = lambda: (values for _, values in self.blocks())  # noqa: E731
            counted = sorted_or_counted(voxels, self.dtype, self.grid.device)
            self._statistics[background] = voxel_statistics(*counted, background)
        return normalizing_window(self._statistics[background], self._faces, self.name, background, widest)

    def _range(self) -> tuple[float, float]:
        low, high = self.overview.values().aminmax()
        return float(low), float(high)

    @functools.cached_property
    def _faces(self) -> list[Tensor]:
        return [torch.cat([self.face(face) for face in FACES]).float().cpu()]

    @functools.cached_property
    def _statistics(self) -> dict[float | None, OrderStatistics]:
        return {}

    @functools.cached_property
    def _windows(self) -> dict[float, Window]:
        return {}

    @functools.cached_property
    def _window(self) -> Window:
        return self.window()
