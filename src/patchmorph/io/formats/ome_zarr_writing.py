"""OME-Zarr images, version 0.5, written block by block with their coarser levels.

Arrays are ``[c, z, y, x]``, or ``[z, y, x]`` of one channel, in chunks of `SIDE`³. Axes have no place for an
oblique direction, so the group keeps the whole matrix beside OME's attributes, and scales and translations
place the voxels along the array's own axes.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from patchmorph.images.pyramid import Coarsening, level_spacing
from patchmorph.io.extras import extra
from patchmorph.io.formats.base import Layout
from patchmorph.io.formats.ome_zarr import OWN
from patchmorph.io.grids import matrix_of
from patchmorph.io.numbers import rounded
from patchmorph.spatial.grid import Grid, VoxelBox, triple

VERSION = "0.5"
SIDE = 128
"""Voxels along each side of a chunk."""
SMALLEST = 64
"""Voxels along the longest side of the coarsest level, at most."""


class Block(NamedTuple):
    """One chunk to be written: of a level, of a channel."""

    level: int
    channel: int
    box: VoxelBox


class OmeZarrFile:
    """A Zarr group that becomes an OME-Zarr image when all its blocks are written.

    Args:
        folder: of the group; arrays that are there already are kept if ``resume``.
        grid: of the finest level; of batch size one.
        dtype: of the voxels.
        channels: names of the channels.
        resume: go on with what an earlier process has written.
    """

    def __init__(
        self, folder: Path, grid: Grid, dtype: np.dtype, channels: Sequence[str] = ("",), resume: bool = False
    ):
        zarr = extra("zarr", "large", "write OME-Zarr")
        self.dtype, self.channels = np.dtype(dtype), tuple(channels)
        self.coarsenings = list(_coarsenings(grid))
        self.grids = [grid, *(one.grid for one in self.coarsenings)]
        self._root = zarr.open_group(folder, mode="a" if resume else "w", zarr_format=3)
        self._arrays = [self._array(str(k), level) for k, level in enumerate(self.grids)]

    def blocks(self) -> Iterator[Block]:
        """All blocks, each level after the one that it is computed from."""
        for level, grid in enumerate(self.grids):
            for channel in range(len(self.channels)):
                for box, _ in grid.blocks(SIDE):
                    yield Block(level, channel, box)

    def write(self, block: Block, values: np.ndarray) -> None:
        """Write the voxels ``[x, y, z]`` of a block."""
        self._arrays[block.level][self._index(block)] = values.transpose(2, 1, 0)

    def coarse(self, block: Block) -> np.ndarray:
        """The voxels of a block of a coarser level, from the level before it."""

        def read(box: VoxelBox) -> Tensor:
            finer = Block(block.level - 1, block.channel, box)
            values = self._arrays[finer.level][self._index(finer)].transpose(2, 1, 0)
            return torch.from_numpy(np.ascontiguousarray(values, np.float32))[None, None]

        means = self.coarsenings[block.level - 1].block(read, block.box)
        return rounded(means[0, 0].numpy(), self.dtype)

    def finish(self, name: str) -> None:
        """Write the metadata, by which the group becomes an image."""
        spaces = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"]
        several = len(self.channels) > 1
        image = {
            "name": name,
            "axes": [{"name": "c", "type": "channel"}, *spaces] if several else spaces,
            "datasets": [self._dataset(k, several) for k in range(len(self.grids))],
            "type": "triangle",
        }
        ome: dict[str, Any] = {"version": VERSION, "multiscales": [image]}
        if several:
            ome["omero"] = {"channels": [self._channel(k, label) for k, label in enumerate(self.channels)]}
        self._root.attrs.update({"ome": ome, OWN: {"voxel_to_world": matrix_of(self.grids[0]).tolist()}})

    def _array(self, name: str, grid: Grid) -> Any:
        if name in self._root:
            return self._root[name]
        shape, names = grid.shape[::-1], ["z", "y", "x"]
        chunks = tuple(min(SIDE, count) for count in shape)
        if len(self.channels) > 1:
            shape, chunks, names = (len(self.channels), *shape), (1, *chunks), ["c", *names]
        return self._root.create_array(
            name, shape=shape, chunks=chunks, dtype=self.dtype, dimension_names=names, fill_value=0
        )

    def _index(self, block: Block) -> tuple[Any, ...]:
        x, y, z = block.box.slices
        return (block.channel, z, y, x) if len(self.channels) > 1 else (z, y, x)

    def _dataset(self, level: int, several: bool) -> dict[str, Any]:
        """The path of a level, and scale and translation along its own axes."""
        finest, own = (matrix_of(self.grids[k]) for k in (0, level))
        directions = finest[:3, :3] / np.linalg.norm(finest[:3, :3], axis=0)
        scale = np.linalg.norm(own[:3, :3], axis=0)
        first = np.linalg.solve(directions, own[:3, 3])
        steps = [
            {"type": "scale", "scale": [1.0] * several + scale[::-1].tolist()},
            {"type": "translation", "translation": [0.0] * several + first[::-1].tolist()},
        ]
        return {"path": str(level), "coordinateTransformations": steps}

    def _channel(self, index: int, label: str) -> dict[str, Any]:
        """What viewers show of a channel; the window is that of its coarsest level (JSON has no NaN)."""
        values = self._arrays[-1][index]
        known = values[np.isfinite(values)]
        low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
        window = {"min": low, "max": high, "start": low, "end": high}
        return {"label": label, "color": "FFFFFF", "active": True, "window": window}


def check_writer(path: Path) -> None:
    """Check that zarr is installed.

    Raises:
        PatchMorphError: it is not.
    """
    extra("zarr", "large", f"write {path}")


def write_ome_zarr(frames: Iterable[np.ndarray], layout: Layout, temporary: Path) -> None:
    """Write frames that are in memory; several become channels.

    Raises:
        PatchMorphError: zarr is not installed.
    """
    grid = Grid(triple(layout.shape[:3]), torch.from_numpy(np.array(layout.matrix, np.float64))[None])
    count = int(np.prod(layout.shape[3:], dtype=int))
    file = OmeZarrFile(temporary, grid, layout.dtype, [f"channel {k}" for k in range(count)])
    given, current, frame = iter(frames), -1, np.zeros(0)
    for block in file.blocks():
        if block.level == 0 and block.channel != current:
            current, frame = block.channel, next(given)
        file.write(block, file.coarse(block) if block.level else frame[block.box.slices].astype(file.dtype))
    file.finish(layout.path.name.removesuffix(".ome.zarr"))


def _coarsenings(grid: Grid) -> Iterator[Coarsening]:
    while max(grid.shape) > SMALLEST:
        spacing = tuple(grid.spacing_mm[0].tolist())
        coarsening = Coarsening(grid, level_spacing(spacing, 2 * min(spacing)))
        grid = coarsening.grid
        yield coarsening
