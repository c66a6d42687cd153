"""Images as large as their disks: resampled, or computed from a transform, and written block by block."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patchmorph.errors import PatchMorphError
from patchmorph.images.chunked import ChunkedImage, StoredImage
from patchmorph.io.block_writer import BlockWriter, Spread, one_by_one
from patchmorph.io.chunked import open_frames
from patchmorph.io.formats.ome_zarr_writing import Block
from patchmorph.io.grids import matrix_of
from patchmorph.io.labels import Choice, choose_interpolation
from patchmorph.io.numbers import typed
from patchmorph.io.resumable import resumable
from patchmorph.progress import advance, step
from patchmorph.spatial.grid import Grid, VoxelBox, triple
from patchmorph.spatial.sampling import Interpolation
from patchmorph.transforms.base import Transform
from patchmorph.transforms.inverse import round_trip_mm
from patchmorph.transforms.jacobian import (
    Differences,
    Folding,
    InvertedCells,
    cells_inverted_by,
    first_corners,
    folding_of,
    jacobian_determinant,
    log_determinant,
)
from patchmorph.transforms.resample import resample

ENDING = ".ome.zarr"
"""Of the names of files that are written block by block."""
FLOAT = np.dtype(np.float32)
FOLDING_SIDE = 256
"""Voxels along each side of the blocks in which inverted cells are counted."""
CHOICE_SIDE = 192
"""Voxels along each side of the part of an image from which its interpolation is chosen."""


@dataclass(frozen=True)
class Warping:
    """Resamples images at the voxels of a block; the attributes are those of `warp_blocks`."""

    images: Sequence[StoredImage]
    transform: Transform
    interpolation: Interpolation
    background: int | float

    def __call__(self, block: Block, local: Grid) -> np.ndarray:
        """The voxels ``[x, y, z]`` of a block."""
        image = self.images[block.channel]
        warped = resample(image, self.transform, local, self.interpolation, self.background)
        return typed(warped.data[0, 0].cpu().numpy(), number_type(image))


@dataclass(frozen=True)
class Determinants:
    """The Jacobian determinant at the voxels of a block; the attributes are those of `jacobian_blocks`."""

    transform: Transform
    differences: Differences
    log: bool

    def __call__(self, block: Block, local: Grid) -> np.ndarray:
        """The voxels ``[x, y, z]`` of a block."""
        determinant = jacobian_determinant(self.transform, local, self.differences)
        return (log_determinant(determinant) if self.log else determinant).cpu().numpy()


@dataclass(frozen=True)
class RoundTrips:
    """The round-trip error at the voxels of a block; the attributes are those of `missed_blocks`."""

    transform: Transform
    inverse: Transform

    def __call__(self, block: Block, local: Grid) -> np.ndarray:
        """The voxels ``[x, y, z]`` of a block."""
        return round_trip_mm(self.transform, self.inverse, local).cpu().numpy()


def write_blocks(
    path: Path,
    grid: Grid,
    dtype: np.dtype,
    compute: Callable[[Block, Grid], np.ndarray],
    job: Mapping[str, Any],
    channels: Sequence[str] = ("",),
    spread: Spread = one_by_one,
) -> None:
    """Compute and write an image block by block; a later call goes on with what a killed one has written.

    Args:
        path: the OME-Zarr.
        grid: of the image.
        dtype: of its voxels.
        compute: the voxels ``[x, y, z]`` of a block of the finest level, by its grid.
        job: plain data that determine the image (see `resumable`).
        channels: their names.
        spread: where blocks are computed and written.

    Raises:
        PatchMorphError: see `resumable`.
    """
    job = {**job, "grid": matrix_of(grid).tolist(), "shape": grid.shape, "dtype": str(dtype)}
    with resumable(path, job) as ledger:
        writer = BlockWriter(ledger.data.absolute(), grid, dtype, tuple(channels), compute)
        parts = list(enumerate(writer.file.blocks()))
        with step(f"write {path.name}", len(parts)) as current:
            advance(current, len(ledger))
            for _, level in groupby(parts, lambda part: part[1].level):  # which is made of the one before
                for number, _ in spread(writer, [part for part in level if part[0] not in ledger]):
                    ledger.add(number)
                    advance(current)
        writer.file.finish(path.name.removesuffix(ENDING))


def warp_blocks(
    images: Sequence[StoredImage],
    transform: Transform,
    grid: Grid,
    path: Path,
    interpolation: Interpolation,
    background: int | float,
    job: Mapping[str, Any],
    spread: Spread = one_by_one,
) -> None:
    """Resample the channels of an image through ``transform`` onto ``grid``, as `resample` does in memory.

    Args:
        images: one for each channel.
        transform: ``grid``'s world → the images' world, RAS+ mm.
        grid: of the result.
        path: the OME-Zarr.
        interpolation: see `resample`.
        background: value outside the images.
        job: see `write_blocks`.
        spread: likewise; images that other processes open, too, are `FileFrames`.

    Raises:
        PatchMorphError: see `write_blocks`.
    """
    compute = Warping(images, transform, interpolation, background)
    names = [f"channel {k}" for k in range(len(images))]
    options = {"interpolation": interpolation, "background": background}
    write_blocks(path, grid, number_type(images[0]), compute, {**job, **options}, names, spread)


def jacobian_blocks(
    transform: Transform,
    grid: Grid,
    path: Path,
    differences: Differences,
    log: bool,
    job: Mapping[str, Any],
    spread: Spread = one_by_one,
) -> None:
    """Write the Jacobian determinant on ``grid`` (see `jacobian_determinant`), or its logarithm.

    Raises:
        PatchMorphError: see `write_blocks`.
    """
    job = {**job, "differences": differences, "log": log}
    write_blocks(path, grid, FLOAT, Determinants(transform, differences, log), job, spread=spread)


def folding_by_blocks(transform: Transform, grid: Grid, spread: Spread = one_by_one) -> Folding:
    """`patchmorph.transforms.jacobian.folding` of a large ``grid``, whose blocks are spread."""
    blocks = list(enumerate(block for _, block in first_corners(grid).blocks(FOLDING_SIDE)))
    cells = [cells for _, cells in spread(functools.partial(cells_inverted_by, transform), blocks)]
    return folding_of(functools.reduce(InvertedCells.plus, cells, InvertedCells()), grid)


def missed_blocks(
    transform: Transform,
    inverse: Transform,
    grid: Grid,
    path: Path,
    job: Mapping[str, Any],
    spread: Spread = one_by_one,
) -> None:
    """Write the round-trip error of an inverse on ``grid`` in mm (see `round_trip_mm`).

    Raises:
        PatchMorphError: see `write_blocks`.
    """
    write_blocks(path, grid, FLOAT, RoundTrips(transform, inverse), job, spread=spread)


def written_figures(path: Path) -> dict[str, int | float]:
    """The smallest and the largest value of an image that was written, and the voxels that have none (NaN).

    Raises:
        PatchMorphError: all voxels are NaN.
    """
    low, high, missing = math.inf, -math.inf, 0
    for image in open_frames(path):
        for _, values in image.blocks():
            known = values[~values.isnan()]
            missing += values.numel() - known.numel()
            if known.numel():
                low, high = min(low, float(known.min())), max(high, float(known.max()))
    if low > high:
        raise PatchMorphError(
            f"reference must lie where the transform maps points, got no such voxel: {path}"
        )
    figures: dict[str, int | float] = {"smallest": low, "largest": high}
    return figures | ({"voxels that are not mapped": missing} if missing else {})


def number_type(image: StoredImage) -> np.dtype:
    """The number type of the voxels as they are stored."""
    if isinstance(image, ChunkedImage):
        return image.store.dtype.newbyteorder("=")
    return np.dtype(str(image.dtype).removeprefix("torch."))


def choice_of(image: StoredImage) -> Choice:
    """The interpolation for what the middle of an image shows, or the first part that is not constant."""
    grid, name = image.grid, Path(image.name)
    start = triple(max(0, (count - CHOICE_SIDE) // 2) for count in grid.shape)
    boxes = [VoxelBox.at(start, triple(min(CHOICE_SIDE, count) for count in grid.shape))]
    for box in [*boxes, *(box for box, _ in grid.blocks(CHOICE_SIDE))]:
        values = image.read(box)[0, 0]
        if not torch.equal(values, values[:1, :1, :1].expand_as(values)):
            return choose_interpolation(values.numpy(), name)
    return choose_interpolation(np.zeros((1, 1, 1), number_type(image)), name)
