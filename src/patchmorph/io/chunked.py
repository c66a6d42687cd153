"""Image files that are larger than memory: opened, not read."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from nibabel.arrayproxy import ArrayProxy
from nibabel.spatialimages import SpatialImage

from patchmorph.errors import PatchMorphError
from patchmorph.images.cache import CACHE, MAX_BYTES
from patchmorph.images.chunked import ChunkedImage, StoredImage, StoredLevel
from patchmorph.io.conversion import AnyImage, as_image
from patchmorph.io.formats.base import LibraryVolume, path_of, shape_of
from patchmorph.io.formats.chosen import chosen
from patchmorph.io.formats.chunked_file import FileLevel
from patchmorph.io.formats.mapped import MappedStore
from patchmorph.io.images import check_frame, grid_of, load_image
from patchmorph.io.paths import AnyPath, as_path
from patchmorph.io.placement import Placement, placement
from patchmorph.io.pyramids import ENDING, with_pyramid
from patchmorph.io.resumable import fingerprint
from patchmorph.io.stated import Stated, as_stated
from patchmorph.io.streams import BZIP2, GZIP
from patchmorph.io.templates import image_path
from patchmorph.io.volumes import open_volume
from patchmorph.memory import memory_limit
from patchmorph.spatial.grid import Grid, triple

WHOLE_VOXELS, VOXEL_BYTES = 2**27, 64
"""Voxels of an image up to which it is read as a whole: 512 along each side; and bytes of memory for each of
them that may be used at least, for what is computed from both images of a pair."""
CACHE_SHARE = 8
"""Part of the memory that chunks may take, as one over this number."""
MAX_EDGE = 2.0
"""Voxels of a level by which it may cover more or less than the finest one."""


def open_image(
    path: AnyPath,
    stated: Stated | str | None = None,
    whole_voxels: int | None = None,
    pyramid: bool = False,
) -> StoredImage:
    """An image that is read as a whole if it is small, and left where it is stored otherwise.

    A large one has a pyramid: what its file lacks is computed once, in a scratch folder. Levels in a folder
    beside the file are used if they are there. One that is left there only because little memory may be used
    has none: its levels are those of the same image in memory, so that results do not depend on the memory.
    Compressed NIfTI and the formats that ITK reads are read as a whole whatever their size.

    Args:
        path: see `patchmorph.io.images.load_image`; also OME-Zarr, Zarr and Imaris, by path or URL, and
            ``IMAGE#c=1,t=0`` for a channel and a time of it.
        stated: see `load_image`.
        whole_voxels: voxels of images that are read as a whole, at most; by default `WHOLE_VOXELS`, and
            fewer where little memory may be used.
        pyramid: keep the levels in a folder beside the file, of its name and ``.pyramid``.

    Raises:
        PatchMorphError: see `load_image`; or levels that do not cover the same volume.
    """
    path = as_path(path, "image")
    volume = open_volume(path)
    shape = shape_of(volume)
    limit = min(WHOLE_VOXELS, memory_limit() // VOXEL_BYTES) if whole_voxels is None else whole_voxels
    CACHE.max_bytes = min(MAX_BYTES, memory_limit() // CACHE_SHARE)
    levels = _levels(volume, (0,) * (len(shape) - 3))
    if levels is None or math.prod(shape) <= limit:
        return load_image(path, stated)
    check_frame(shape, path)
    place = placement(volume, as_stated(stated))
    if whole_voxels is None and math.prod(shape) <= WHOLE_VOXELS:
        return _image(levels[:1], place, path)
    image = _image(levels, place, path)
    folder = path.with_name(f"{path.name}{ENDING}")
    kept = not chosen(path).is_url and (pyramid or folder.is_dir())
    return with_pyramid(image, folder if kept else None, json.dumps(fingerprint(path)))


def as_stored(given: AnyImage, name: str = "image") -> StoredImage:
    """The image that a user gave; one in a file is opened by `open_image`.

    Raises:
        PatchMorphError: see `patchmorph.io.conversion.as_image`.
    """
    if isinstance(given, ChunkedImage):
        return given
    if isinstance(given, str | os.PathLike):
        return open_image(image_path(os.fsdecode(given)))
    return as_image(given, name)


def open_frames(path: AnyPath, stated: Stated | str | None = None) -> Iterator[ChunkedImage]:
    """All channels and times of an image, as `can_be_opened` takes it; none is read.

    Raises:
        PatchMorphError: see `open_image`.
    """
    path = as_path(path, "image")
    volume = open_volume(path)
    place, further = placement(volume, as_stated(stated)), shape_of(volume)[3:]
    for index in np.ndindex(*further[::-1]):
        levels = _levels(volume, index[::-1])
        assert levels is not None, "a volume that can be opened block by block"
        yield _image(levels, place, path)


def can_be_opened(volume: SpatialImage) -> bool:
    """Whether the frames of a volume can be read block by block."""
    return _levels(volume, (0,) * (len(shape_of(volume)) - 3)) is not None


def _image(levels: list[FileLevel], place: Placement, path: Path) -> ChunkedImage:
    grid = grid_of(place, levels[0].store.shape)
    stored = [StoredLevel(levels[0].store, grid)]
    for store, to_finest in levels[1:]:
        _check_cover(store.shape, to_finest, grid.shape, path)
        stored.append(
            StoredLevel(store, Grid(store.shape, grid.voxel_to_world @ torch.from_numpy(to_finest)))
        )
    return ChunkedImage(stored, str(path), notes=place.notes, doubts=place.doubts)


def _check_cover(shape: tuple[int, ...], to_finest: np.ndarray, finest: tuple[int, ...], path: Path) -> None:
    scale, offset = to_finest.diagonal()[:3], to_finest[:3, 3]
    first = offset - scale / 2 + 0.5  # edges, in finest voxels
    beyond = np.maximum(np.abs(first), np.abs(first + scale * shape - finest))
    if (scale < 1 - 1e-6).any() or (beyond > MAX_EDGE * scale).any():
        got = f"{tuple(shape)} voxels of {np.round(scale, 3).tolist()} times the size of {tuple(finest)}"
        raise PatchMorphError(f"levels must cover the same volume, got one of {got} in {path}")


def _levels(volume: SpatialImage, frame: tuple[int, ...]) -> list[FileLevel] | None:
    """The resolutions of a frame; ``None`` of a volume that can only be read as a whole."""
    if isinstance(volume, LibraryVolume):
        return None if volume.levels is None else volume.levels(frame)
    source, path = volume.dataobj, path_of(volume)
    if not isinstance(source, ArrayProxy) or len(source.shape) != 3 or _is_packed(path):
        return None
    shape, scale = triple(source.shape), (float(source.slope), float(source.inter))
    scale = None if scale == (1, 0) else scale
    store = MappedStore(path, source.dtype, shape[::-1], int(source.offset), (2, 1, 0), scale)
    return [FileLevel(store, np.eye(4))]


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(max(len(GZIP), len(BZIP2))).startswith((GZIP, BZIP2))
