"""Images on disk, of any format (see `patchmorph.io.formats.registry`)."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import AbstractVolume, Image
from patchmorph.io.atomic import FOLDER_ENDING, whole_file, whole_zarr
from patchmorph.io.formats.base import Layout, shape_of
from patchmorph.io.formats.chosen import chosen
from patchmorph.io.formats.registry import ENDINGS, writer_of
from patchmorph.io.grids import matrix_of
from patchmorph.io.paths import AnyPath, as_path
from patchmorph.io.placement import SCANNER, Placement, code_of, placement
from patchmorph.io.stated import Stated, as_stated
from patchmorph.io.volumes import check_files, open_volume, read_voxels
from patchmorph.spatial.grid import Grid, Shape, triple

_WIDER = {np.dtype("u2"): np.int32, np.dtype("u4"): np.int64, np.dtype("u8"): np.int64}
PLANES = 64
"""Along the last axis, that are copied at a time."""


@dataclass(frozen=True)
class Reference:
    """The grid of an image file, and how the file was read.

    Attributes:
        grid: of the voxels.
        code: NIfTI's code of its space, which results on this grid keep (see `Placement`).
        notes: see `Placement`.
        doubts: see `Placement`.
    """

    grid: Grid
    code: int
    notes: tuple[str, ...]
    doubts: tuple[str, ...]


def load_image(path: AnyPath, stated: Stated | str | None = None) -> Image:
    """Read a 3D volume (further axes of length 1 are dropped) with its affine, in RAS+ mm.

    The array keeps its axis order and integer type; of TIFF, the axes are columns, rows, slices. Nothing is
    reoriented, and values are rescaled only by the header's slope and intercept. A compressed file is read
    to its end, where its checksum is.

    Args:
        path: NIfTI, MGZ, NRRD, MetaImage, TIFF, or a folder: of TIFF files or of a DICOM series
            (``FOLDER#SERIES_UID`` for one of several).
        stated: directions of the array axes, such as RAS, or more (see `Stated`), of a file that states none.

    Raises:
        PatchMorphError: no such file, not an image, damaged, not one 3D frame, or a singular affine.
    """
    path = as_path(path, "image")
    volume = open_volume(path)
    shape = check_frame(shape_of(volume), path)
    place = placement(volume, as_stated(stated))
    return image_from(read_voxels(volume).reshape(shape), place, path)


def image_from(array: np.ndarray, place: Placement, path: Path, exact: bool = False) -> Image:
    """One frame ``[X, Y, Z]`` of a volume; ``exact`` keeps float64, which may hold large label ids.

    Raises:
        PatchMorphError: values that are not plain numbers, or beyond the range of the types that are used.
    """
    data = _to_tensor(array, path, exact)[None, None]
    grid = grid_of(place, triple(array.shape))
    return Image(data, grid, str(path), notes=place.notes, doubts=place.doubts)


def load_grid(path: AnyPath, stated: Stated | str | None = None) -> Grid:
    """The grid of a volume, from the file's header alone; axes after the third are ignored.

    Raises:
        PatchMorphError: no such file, not an image of three or more axes, or a singular affine.
    """
    return _reference(as_path(path, "image"), stated).grid


def load_reference(path: str | Path, stated: Stated | str | None = None) -> Reference:
    """The grid of a volume, from its header; a compressed file is checked to its end.

    Raises:
        PatchMorphError: as for `load_grid`, or a damaged file.
    """
    check_files(open_volume(Path(path)))
    return _reference(Path(path), stated)


def space_code(path: str | Path) -> int:
    """NIfTI's code of a volume's space (see `Placement`), from the file's header alone.

    Raises:
        PatchMorphError: as for `load_grid`.
    """
    return code_of(open_volume(Path(path)))


def grid_of(place: Placement, shape: Shape) -> Grid:
    """The grid of voxels at a place."""
    return Grid(shape, torch.from_numpy(place.matrix)[None])


def save_image(image: AbstractVolume, path: AnyPath, code: int = SCANNER) -> None:
    """Write an image; the ending of ``path`` determines the format (see `ENDINGS`).

    Its type is kept where the format has it. TIFF keeps voxel sizes and no orientation.

    Args:
        image: several channels become a further axis of the file.
        path: its folder is made where it is missing.
        code: NIfTI's code of the space, for both forms.

    Raises:
        PatchMorphError: no image, another ending, numbers beyond the format, or no permission to write.
    """
    if not isinstance(image, AbstractVolume):
        raise PatchMorphError(f"image must be a patchmorph.Image, got {type(image).__name__}")
    array = image.numpy()
    frames = [array] if array.ndim == 3 else list(np.moveaxis(array, 3, 0))
    layout = Layout(as_path(path), array.shape, array.dtype, matrix_of(image.grid), code)
    write_frames(frames, layout)


def write_frames(frames: Iterable[np.ndarray], layout: Layout) -> None:
    """Write frames ``[X, Y, Z]`` to the layout's path, whole or not at all.

    Raises:
        PatchMorphError: as for `save_image`.
    """
    write = writer_of(layout.path)
    whole = whole_zarr if layout.path.suffix == FOLDER_ENDING else whole_file
    with whole(layout.path) as temporary:
        write(frames, layout, temporary)


def check_ending(path: Path) -> None:
    """Check, before any work starts, that a file name has the ending of a format that can be written.

    Raises:
        PatchMorphError: another ending.
    """
    writer_of(path)


def check_folder_name(folder: Path) -> None:
    """Check, before any work starts, that a folder to be made has not the name of an image file.

    Raises:
        PatchMorphError: it has.
    """
    if not folder.exists() and folder.name.endswith(ENDINGS):
        raise PatchMorphError(f"output must be a folder, got the name of an image file: {folder}")


def _reference(path: Path, stated: Stated | str | None) -> Reference:
    volume = open_volume(path)
    shape = shape_of(volume)
    if len(shape) < 3:
        raise PatchMorphError(f"image must have three axes, got shape {shape} in {path}")
    place = placement(volume, as_stated(stated))
    grid = grid_of(place, triple(shape[:3]))
    return Reference(grid, place.code, place.notes, place.doubts)


def check_frame(shape: tuple[int, ...], path: Path) -> Shape:
    """The three sizes of one frame; further axes must have length 1.

    Raises:
        PatchMorphError: fewer axes, more frames, or an axis with a single voxel.
    """
    if len(shape) < 3 or min(shape[:3]) < 2 or any(size != 1 for size in shape[3:]):
        by_number = chosen(path).place.endswith((".zarr", ".ims"))
        how = f"is chosen by its number: {path.name}#c=0" if by_number else "is a file: --fixed-channel"
        hint = f" (of several channels, each {how})" if len(shape) > 3 else ""
        raise PatchMorphError(f"image must be one 3D volume, got shape {shape} in {path}{hint}")
    return triple(shape[:3])


def _to_tensor(array: np.ndarray, path: Path, exact: bool) -> torch.Tensor:
    own = array.dtype.newbyteorder("=")
    if own.kind not in "iufb":
        raise PatchMorphError(f"image must hold plain numbers, got {own} in {path}")
    dtype = np.dtype(_WIDER.get(own, own))
    if dtype.kind == "f" and not (exact and dtype == np.float64):
        dtype = np.dtype(np.float32)
    if own == np.uint64 and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise PatchMorphError(f"image must hold integers below 2**63, got {array.max()} in {path}")
    try:
        with np.errstate(over="raise"):
            return torch.from_numpy(_last_axis_contiguous(array, dtype))
    except FloatingPointError:
        raise PatchMorphError(
            f"image must hold numbers that fit float32, got larger ones in {path}"
        ) from None


def _last_axis_contiguous(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """A copy in C order, a few planes at a time: files have the first axis contiguous, and a copy that leaps
    through the whole array takes three times as long."""
    result = np.empty(array.shape, dtype)
    for first in range(0, array.shape[-1], PLANES):
        result[..., first : first + PLANES] = array[..., first : first + PLANES]
    return result
