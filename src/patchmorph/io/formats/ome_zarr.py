"""OME-Zarr images and plain Zarr arrays, in a folder or behind a URL of fsspec."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.io.atomic import ZARR_MARKS
from patchmorph.io.formats.base import ImageFormat
from patchmorph.io.formats.chosen import Chosen, chosen, index_of
from patchmorph.io.formats.chunked_file import ChunkedFile, FileLevel
from patchmorph.io.formats.ngff_metadata import SPACE, Dataset, Multiscale, multiscale_of
from patchmorph.io.formats.zarr_stores import ZarrStore, member, open_zarr
from patchmorph.io.grids import LPS

ENDINGS = (".ome.zarr",)
N5_MARK = "attributes.json"
MAX_VOXELS, MAX_FRAMES = 2**31, 2**16
"""Along an axis of space, and channels or times, at most."""
UNORIENTED = "OME-Zarr files state no orientation"
OWN = "patchmorph"
"""Attribute of our files, beside those of OME: the matrix ``voxel_to_world`` of the finest level."""
PLAIN_AXES = {3: ("z", "y", "x"), 4: ("c", "z", "y", "x"), 5: ("t", "c", "z", "y", "x")}
"""Axes of a Zarr array that names none."""


def open_ome_zarr(path: Path) -> ChunkedFile:
    """Open an image of several resolutions, or a plain array, whose voxel sizes must be stated.

    Raises:
        PatchMorphError: no Zarr, metadata that are not complete, or no such channel.
    """
    place = chosen(path)
    if not place.is_url and (place.path / N5_MARK).exists() and not _is_zarr(place.path):
        raise PatchMorphError(f"image must be OME-Zarr, which N5 is converted to first, got N5 in {path}")
    root = open_zarr(place, path)
    attributes = dict(root.attrs)
    if hasattr(root, "chunks"):
        return _open_array(root, place, path)
    if "bioformats2raw.layout" in {*attributes, *_ome(attributes, path)}:
        root = _subgroup(root, "0", path)
        attributes = dict(root.attrs)
    if "multiscales" not in (_ome(attributes, path) or attributes):
        raise PatchMorphError(f"Zarr group must have OME's multiscales, got none in {path}")
    image = multiscale_of(attributes, path)
    arrays = [member(root, dataset.path, path) for dataset in image.datasets]
    for array in arrays:
        if len(array.shape) != len(image.names):
            got = f"{len(array.shape)} in dataset {array.path}"
            raise PatchMorphError(f"arrays must have {len(image.names)} axes, got {got} of {path}")
    matrix = _own_matrix(attributes, path)
    return _volume(image, arrays, matrix, place, path)


def _volume(
    image: Multiscale, arrays: list[Any], own: np.ndarray | None, place: Chosen, path: Path
) -> ChunkedFile:
    _check_axes(image.names, arrays, place, path)
    names, first = image.names, arrays[0]
    fixed, further = _other_axes(image, first.shape, place, path)
    x, y, z = (names.index(name) for name in SPACE)

    def levels(frame: tuple[int, ...]) -> list[FileLevel]:
        at = fixed | dict(zip(further, frame, strict=True))
        stores = [ZarrStore(array, (x, y, z), at, path) for array in arrays]
        return [FileLevel(store, image.to_finest(k)) for k, store in enumerate(stores)]

    oriented = own is not None or (image.directions is not None and image.unit is not None)
    matrix = own if own is not None else image.matrix() if oriented else LPS
    spacing = image.spacing_mm if own is None else tuple(np.linalg.norm(own[:3, :3], axis=0).tolist())
    return ChunkedFile(
        path,
        levels,
        matrix,
        tuple(first.shape[k] for k in further),
        kind="OME-Zarr",
        unoriented="" if oriented else UNORIENTED,
        slices_first=not oriented,
        spacing_mm=spacing,
        without_spacing="its axes have no unit",
    )


def _check_axes(names: Sequence[str], arrays: list[Any], place: Chosen, path: Path) -> None:
    """Reject voxels that are no plain numbers, impossible sizes, and a choice along a missing axis."""
    if arrays[0].dtype.kind not in "iufb":
        raise PatchMorphError(f"image must hold plain numbers, got {arrays[0].dtype} in {path}")
    for array in arrays:
        for name, size in zip(names, array.shape, strict=True):
            if size > (MAX_VOXELS if name in SPACE else MAX_FRAMES):
                raise PatchMorphError(
                    f"axis {name} must have a possible size, got {one_line(size)} in {path}"
                )
    for name, choice in (("c", place.channel), ("t", place.time)):
        if choice is not None and name not in names:
            raise PatchMorphError(f"image must have an axis {name}, got {', '.join(names)} in {path}")


def _other_axes(
    image: Multiscale, shape: Sequence[int], place: Chosen, path: Path
) -> tuple[dict[int, int], list[int]]:
    """Channels, then times: the index along each of these axes where one is chosen, and the axes left."""
    names = image.names
    others = [k for k, name in enumerate(names) if name not in SPACE]
    others.sort(key=lambda k: names[k] == "t")
    fixed, further = {}, []
    for k in others:
        is_time = names[k] == "t"
        labels = [str(index) for index in range(shape[k])]
        if not is_time and len(image.channels) == len(labels):
            labels = list(image.channels)
        choice = place.time if is_time else place.channel
        index = index_of(choice, labels, "time" if is_time else "channel", path)
        if index is None:
            further.append(k)
        else:
            fixed[k] = index
    return fixed, further


def _open_array(array: Any, place: Chosen, path: Path) -> ChunkedFile:
    """A plain array, whose axes are those that it names, or z, y, x after channel and time."""
    named = tuple(getattr(array.metadata, "dimension_names", None) or ())
    names = named if set(SPACE) <= set(named) else PLAIN_AXES.get(len(array.shape), ())
    if len(names) != len(array.shape):
        raise PatchMorphError(f"Zarr array must have 3 to 5 axes, got shape {array.shape} in {path}")
    image = Multiscale(tuple(map(str, names)), (Dataset("", (1.0,) * 3, None),), None, None, ())
    volume = _volume(image, [array], None, place, path)
    volume.without_spacing = "a plain Zarr array states none"
    return volume


def _own_matrix(attributes: dict[str, Any], path: Path) -> np.ndarray | None:
    if OWN not in attributes:
        return None
    try:
        matrix = np.array(attributes[OWN]["voxel_to_world"], np.float64)
    except (LookupError, TypeError, ValueError, OverflowError):
        matrix = np.zeros(0)
    if matrix.shape != (4, 4) or not np.array_equal(matrix[3], (0, 0, 0, 1)):
        raise PatchMorphError(
            f"voxel_to_world must be a matrix of 4 rows whose last is 0 0 0 1, got another in {path}"
        )
    return matrix


def _ome(attributes: dict[str, Any], path: Path) -> dict[str, Any]:
    found = attributes.get("ome") or {}
    if not isinstance(found, dict):
        raise PatchMorphError(
            f"attribute ome of a Zarr group must hold names and values, got {found} in {path}"
        )
    return found


def _subgroup(root: Any, name: str, path: Path) -> Any:
    try:
        return root[name]
    except KeyError:
        raise PatchMorphError(f"image must be in group {name}, got no such group in {path}") from None


def _is_zarr(folder: Path) -> bool:
    return any((folder / name).exists() for name in ZARR_MARKS)


def _recognises(path: Path, start: bytes) -> bool:
    place = chosen(path)
    return place.is_url or _is_zarr(place.path) or (place.path / N5_MARK).exists()


OME_ZARR = ImageFormat("OME-Zarr", ENDINGS, _recognises, open_ome_zarr)
