"""Volumes of any format: chosen by content, checked before anything is allocated, read to the end."""

from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast

import numpy as np
from nibabel.spatialimages import SpatialImage

from patchmorph.errors import PatchMorphError
from patchmorph.io.formats.base import LibraryVolume, path_of, unreadable
from patchmorph.io.formats.nibabel_volumes import KIND, UNREADABLE, quiet_nibabel, stated_bytes
from patchmorph.io.formats.registry import format_of
from patchmorph.io.streams import check_rest, check_whole


def open_volume(path: Path) -> SpatialImage:
    """Open a volume whose voxels are read on access.

    Raises:
        PatchMorphError: no such file, not an image, or a header that contradicts itself or the file's size.
    """
    return format_of(path).open(path)


def read_voxels(volume: SpatialImage) -> np.ndarray:
    """All voxels, rescaled by the header's slope and intercept; a compressed file is checked to its end.

    Raises:
        PatchMorphError: a damaged file.
    """
    array = read_part(volume, (...,))
    check_end(volume)
    return array


def read_part(volume: SpatialImage, index: tuple[Any, ...]) -> np.ndarray:
    """The voxels at an index of integers, slices and ``...``, rescaled by the header's slope and intercept.

    Raises:
        PatchMorphError: a damaged file.
    """
    try:
        with quiet_nibabel():
            return np.asarray(volume.dataobj[index])
    except PatchMorphError:
        raise
    except UNREADABLE as error:
        raise unreadable(path_of(volume), error, getattr(volume, "kind", KIND)) from None


def check_end(volume: SpatialImage) -> None:
    """Read the rest of a compressed file after its voxels, so that its checksum is compared.

    Raises:
        PatchMorphError: a damaged file.
    """
    source = getattr(volume.dataobj, "file_like", None)
    if hasattr(source, "read"):
        check_rest(cast(BufferedIOBase, source), path_of(volume), stated_bytes(volume))
    else:
        check_files(volume)


def check_files(volume: SpatialImage) -> None:
    """Read the volume's compressed files from start to end, so that their checksums are compared.

    Raises:
        PatchMorphError: a damaged file.
    """
    if isinstance(volume, LibraryVolume):
        if volume.packed:
            read_part(volume, (...,))
        return
    for holder in volume.file_map.values():
        if holder.filename and Path(holder.filename).is_file():
            check_whole(Path(holder.filename), stated_bytes(volume))
