"""Coarser levels of large images whose files have none, computed once, block by block."""

import math
import shutil
import tempfile
import weakref
from pathlib import Path

import numpy as np

from patchmorph.errors import PatchMorphError
from patchmorph.images.cache import chunk_indices, copy_common
from patchmorph.images.chunked import ChunkedImage, StoredLevel
from patchmorph.images.pyramid import Coarsening, level_spacing
from patchmorph.images.stores import VoxelStore
from patchmorph.io.atomic import writing
from patchmorph.io.numbers import rounded
from patchmorph.progress import track
from patchmorph.spatial.grid import Shape, VoxelBox, VoxelIndex, triple
from patchmorph.workers import in_order

COARSEST_VOXELS = 2**21
"""Voxels of the coarsest level, at most."""
BRICK = 64
"""Voxels along each side of what is stored together."""
PLANE, THIN = 2**18, 8
"""Voxels of the plane of a chunk above which bricks are thin: all chunks across a layer are read for each."""
PREFIX = "patchmorph-pyramid-"
"""Start of the names of temporary folders."""
ENDING = ".pyramid"
"""Of the name of the folder beside an image that keeps its levels."""
MARK, UNFINISHED = "image.txt", ".unfinished"
"""File in such a folder that names its image, and ending of a level that is being computed."""


class BrickStore(VoxelStore):
    """A file of bricks, each of them contiguous. Bricks of zeros take no room on the disk.

    Args:
        path: of the file; made where it is missing, or has another size.
        shape: see `VoxelStore`.
        dtype: see `VoxelStore`.
        chunk: of a brick.
    """

    def __init__(self, path: Path, shape: Shape, dtype: np.dtype, chunk: Shape):
        self.path, self.name = path, str(path)
        self.shape, self.dtype, self.chunk = shape, dtype, chunk
        self._counts = triple(-(-n // side) for n, side in zip(shape, chunk, strict=True))
        self._bytes = math.prod(chunk) * dtype.itemsize
        size = self._bytes * math.prod(self._counts)
        if not path.exists() or path.stat().st_size != size:
            with path.open("wb") as file:
                file.truncate(size)

    def read(self, box: VoxelBox) -> np.ndarray:
        """The voxels of ``box``."""
        result = np.empty(box.shape, self.dtype)
        with self.path.open("rb", buffering=0) as file:
            for index in chunk_indices(box, self.chunk):
                file.seek(self._place(index))
                brick = np.frombuffer(file.read(self._bytes), self.dtype).reshape(self.chunk)
                copy_common(brick, self._origin(index), result, box)
        return result

    def write(self, box: VoxelBox, values: np.ndarray) -> None:
        """Write the voxels of a box that begins and ends with bricks."""
        with self.path.open("r+b", buffering=0) as file:
            for index in chunk_indices(box, self.chunk):
                brick = np.zeros(self.chunk, self.dtype)
                origin = self._origin(index)
                copy_common(values, box.start, brick, VoxelBox.at(origin, self.chunk))
                if brick.any():
                    file.seek(self._place(index))
                    file.write(brick.data)

    def _place(self, index: VoxelIndex) -> int:
        return self._bytes * int(np.ravel_multi_index(index, self._counts))

    def _origin(self, index: VoxelIndex) -> VoxelIndex:
        return triple(k * side for k, side in zip(index, self.chunk, strict=True))


def with_pyramid(image: ChunkedImage, folder: Path | None = None, job: str = "") -> ChunkedImage:
    """The image with coarser levels, each of twice the spacing, down to a small one.

    A level has the values that `patchmorph.images.pyramid.downsample` computes in memory of the level before
    it, rounded where the voxels are whole numbers.

    Args:
        image: with or without levels, which stay.
        folder: for the new ones, which are kept; by default a temporary one, removed with the image.
        job: what tells the image from others: levels of another one in the folder are replaced.

    Raises:
        PatchMorphError: the folder cannot be written, or voxels cannot be read.
    """
    if math.prod(image.levels[-1].grid.shape) <= COARSEST_VOXELS:
        return image
    levels, place = list(image.levels), folder or Path(tempfile.mkdtemp(prefix=PREFIX))
    with writing(place):
        if folder is not None:
            _prepare(folder, job)
        while math.prod(levels[-1].grid.shape) > COARSEST_VOXELS:
            source = ChunkedImage([levels[-1]], image.name, cache=image.cache)
            levels.append(_coarser(source, place / f"level-{len(levels)}"))
    if folder is None:
        weakref.finalize(levels[-1].store, shutil.rmtree, place, ignore_errors=True)
    return image.with_levels(levels)


def _prepare(folder: Path, job: str) -> None:
    """Make a folder for levels, without those of another image.

    Raises:
        PatchMorphError: a folder of other files.
    """
    mark = folder / MARK
    if folder.exists() and any(folder.iterdir()) and not mark.exists():
        raise PatchMorphError(f"folder of a pyramid must be new or one of PatchMorph's, got {folder}")
    if not mark.exists() or mark.read_text() != job:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        mark.write_text(job)


def _coarser(image: ChunkedImage, path: Path) -> StoredLevel:
    """The level of twice the spacing, in a file."""
    coarsening = Coarsening(image.grid, level_spacing(image.spacing_mm, 2 * min(image.spacing_mm)))
    chunk = triple(image.store.chunk)
    thin = math.prod(sorted(chunk)[1:]) > PLANE
    sides = triple(THIN if thin and n == min(chunk) else BRICK for n in chunk)
    unfinished = path.with_name(f"{path.name}{UNFINISHED}")
    own = coarsening.grid.shape, image.store.dtype.newbyteorder("="), sides
    store = BrickStore(unfinished, *own)
    if path.exists() and path.stat().st_size == unfinished.stat().st_size:
        unfinished.unlink()
        return StoredLevel(BrickStore(path, *own), coarsening.grid)

    def compute(box: VoxelBox) -> None:
        values = coarsening.block(image.read, box)[0, 0].numpy()
        store.write(box, rounded(values, store.dtype))

    boxes = [box for box, _ in coarsening.grid.blocks(_tile(chunk, sides))]
    inwards = sorted(range(3), key=lambda axis: chunk[axis])  # so that chunks of neighbours are still kept
    boxes.sort(key=lambda box: [box.start[axis] for axis in inwards])
    name = f"level at {min(coarsening.grid.spacing_mm[0].tolist()):.3g} mm"
    for _ in track(in_order(compute, boxes), name, len(boxes)):
        pass
    unfinished.rename(path)
    return StoredLevel(BrickStore(path, *own), coarsening.grid)


def _tile(chunk: Shape, brick: Shape) -> Shape:
    """What is computed at a time: whole bricks, from whole chunks where these are large."""
    return triple(side * max(1, -(-n // (2 * side))) for n, side in zip(chunk, brick, strict=True))
