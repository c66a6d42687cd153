"""An image that is larger than memory: its voxels stay where they are stored, and are read when needed."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Num
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.images.cache import CACHE, ChunkCache
from patchmorph.images.field_of_view import Face
from patchmorph.images.stores import VoxelStore
from patchmorph.images.turning import Turn
from patchmorph.images.volume import AbstractVolume, Image
from patchmorph.spatial.affine import invert_affine
from patchmorph.spatial.grid import BLOCK_SIDE, Grid, VoxelBox, triple

WIDER = {np.dtype("u2"): np.dtype("i4"), np.dtype("u4"): np.dtype("i8"), np.dtype("u8"): np.dtype("i8")}
"""Number types that stand for those that torch hardly has."""

LARGEST = np.iinfo(np.int64).max
MAX_SIDE = 256
"""Voxels along each side of the blocks of a volume whose chunks are large, at most."""


class StoredLevel(NamedTuple):
    """One resolution of a stored image.

    Attributes:
        store: its voxels.
        grid: where they lie; of batch size one.
        turn: how the array that is read is turned to the one on ``grid``.
    """

    store: VoxelStore
    grid: Grid
    turn: Turn = Turn()


class ChunkedImage(AbstractVolume):
    """A volume of one channel whose voxels are in chunks on a disk or a server.

    Args:
        levels: resolutions, the finest first; the others are coarser versions of it without aliasing.
        name: see `AbstractVolume`, as all others.
        truncated_faces: likewise.
        field_of_view: by default the grid of the finest level.
        notes: likewise.
        doubts: likewise.
        background: likewise.
        cache: of the chunks, by default that of the process.
    """

    channels = 1
    in_memory = False

    def __init__(
        self,
        levels: Sequence[StoredLevel],
        name: str = "image",
        truncated_faces: tuple[Face, ...] = (),
        field_of_view: Grid | None = None,
        notes: tuple[str, ...] = (),
        doubts: tuple[str, ...] = (),
        background: float | None = None,
        cache: ChunkCache = CACHE,
    ):
        self.levels, self.cache, self.name = tuple(levels), cache, name
        self.store, self.grid, self._turn = self.levels[0]
        chunk = torch.tensor(self._turn.shape(self.store.chunk), dtype=torch.float64)
        x, y, z = (self.grid.voxel_to_world[0, :3, :3].abs() @ chunk).tolist()
        self.chunk_mm = (x, y, z)
        own = self.store.dtype.newbyteorder("=")
        self._dtype = WIDER.get(own, np.dtype(np.float32) if own.kind == "f" else own)
        self.dtype = torch.from_numpy(np.empty(0, self._dtype)).dtype
        self.truncated_faces = truncated_faces
        self.field_of_view = self.grid if field_of_view is None else field_of_view
        self.notes, self.doubts, self.background = notes, doubts, background

    @functools.cached_property
    def _coarser(self) -> tuple[AbstractVolume, ...]:
        return tuple(self._copy((level,), self.truncated_faces) for level in self.levels[1:])

    def read(self, box: VoxelBox) -> Num[Tensor, "1 1 x y z"]:
        """The voxels of ``box``.

        Raises:
            PatchMorphError: a damaged chunk, or one that cannot be reached.
        """
        stored = self.cache.read(self.store, self._turn.source(box, self.store.shape))
        if stored.dtype.kind == "u" and stored.dtype.itemsize == 8 and stored.max() > LARGEST:
            raise PatchMorphError(f"image must hold integers below 2**63, got {stored.max()} in {self.name}")
        voxels = np.array(self._turn.array(stored), self._dtype, order="C")
        return torch.from_numpy(voxels)[None, None].to(self.grid.device)

    def blocks(self) -> Iterator[tuple[VoxelBox, Num[Tensor, "1 1 x y z"]]]:
        """The voxels in blocks of whole chunks; while one is used, the next is read."""
        sides = triple(min(-(-BLOCK_SIDE // n) * n, MAX_SIDE) for n in self._turn.shape(self.store.chunk))
        boxes = [box for box, _ in self.grid.blocks(sides)]
        for box, following in zip(boxes, [*boxes[1:], None], strict=True):
            values = self.read(box)
            if following is not None:
                self.cache.prefetch(self.store, self._turn.source(following, self.store.shape))
            yield box, values

    def to(self, device: torch.device | str) -> "ChunkedImage":
        """The same image, whose blocks come to another device when they are read."""
        levels = [level._replace(grid=level.grid.to(device)) for level in self.levels]
        return self._copy(levels, self.truncated_faces, self.field_of_view.to(device))

    def with_background(self, background: float | None) -> "ChunkedImage":
        """The same image with another ``background``."""
        image = self._copy(self.levels, self.truncated_faces)
        image.background = background
        return image

    def with_levels(self, levels: Sequence[StoredLevel]) -> "ChunkedImage":
        """The same image with other levels; the finest one must be the same."""
        return self._copy(levels, self.truncated_faces)

    def turned(self, turn: Turn, grid: Grid, faces: tuple[Face, ...]) -> "ChunkedImage":
        """The same image with its voxels in another order; see `Image.turned` for the arguments."""
        moved = grid.voxel_to_world @ invert_affine(turn.grid(self.grid).voxel_to_world)
        levels = []
        for level in self.levels:
            own = turn.grid(level.grid)
            placed = Grid(own.shape, moved @ own.voxel_to_world, grid.points_device)
            levels.append(StoredLevel(level.store, placed, level.turn.then(turn)))
        levels[0] = levels[0]._replace(grid=grid)
        return self._copy(levels, faces, grid)

    def _copy(
        self, levels: Sequence[StoredLevel], faces: tuple[Face, ...], field_of_view: Grid | None = None
    ) -> "ChunkedImage":
        bounds = self.field_of_view if field_of_view is None else field_of_view
        remarks = (self.notes, self.doubts, self.background)
        return ChunkedImage(levels, self.name, faces, bounds, *remarks, self.cache)


StoredImage = Image | ChunkedImage
"""Voxels as they are stored, in memory or not."""
