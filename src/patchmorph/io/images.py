"""Volumes on disk: NIfTI and MGZ."""

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch

from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.atomic import whole_file
from patchmorph.io.headers import set_forms
from patchmorph.io.placement import SCANNER, Placement, placement
from patchmorph.io.volumes import MGH, check_files, open_volume, read_voxels, shape_of
from patchmorph.spatial.grid import Grid, Shape, triple

ENDINGS = (".nii", ".nii.gz", *MGH)
_WIDER = {np.dtype("u2"): np.int32, np.dtype("u4"): np.int64, np.dtype("u8"): np.int64}


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


def load_image(path: str | Path, assume_orientation: str | None = None) -> Image:
    """Read a 3D volume (further axes of length 1 are dropped) with its affine, in RAS+ mm.

    The array keeps its axis order and integer type. Nothing is reoriented, and values are rescaled only by
    the header's slope and intercept. A compressed file is read to its end, where its checksum is.

    Args:
        path: NIfTI or MGZ.
        assume_orientation: directions of the array axes, such as RAS, for a file that states none (see
            `patchmorph.io.placement.placement`).

    Raises:
        PatchMorphError: no such file, not an image, damaged, not one 3D frame, or a singular affine.
    """
    path = Path(path)
    volume = open_volume(path)
    shape = _shape(shape_of(volume), path)
    return image_from(read_voxels(volume).reshape(shape), placement(volume, assume_orientation), path)


def image_from(array: np.ndarray, place: Placement, path: Path, exact: bool = False) -> Image:
    """One frame ``[X, Y, Z]`` of a volume; ``exact`` keeps float64, which may hold large label ids.

    Raises:
        PatchMorphError: values that are not plain numbers, or beyond the range of the types that are used.
    """
    data = _to_tensor(array, path, exact)[None, None]
    grid = grid_of(place, triple(array.shape))
    return Image(data, grid, str(path), notes=place.notes, doubts=place.doubts)


def load_grid(path: str | Path, assume_orientation: str | None = None) -> Grid:
    """The grid of a volume, from the file's header alone; axes after the third are ignored.

    Raises:
        PatchMorphError: no such file, not an image of three or more axes, or a singular affine.
    """
    return _reference(Path(path), assume_orientation).grid


def load_reference(path: str | Path, assume_orientation: str | None = None) -> Reference:
    """The grid of a volume, from its header; a compressed file is checked to its end.

    Raises:
        PatchMorphError: as for `load_grid`, or a damaged file.
    """
    check_files(open_volume(Path(path)))
    return _reference(Path(path), assume_orientation)


def space_code(path: str | Path) -> int:
    """NIfTI's code of a volume's space (see `Placement`), from the file's header alone.

    Raises:
        PatchMorphError: as for `load_grid`.
    """
    return _reference(Path(path), None).code


def grid_of(place: Placement, shape: Shape) -> Grid:
    """The grid of voxels at a place."""
    return Grid(shape, torch.from_numpy(place.matrix)[None])


def save_image(image: Image, path: str | Path, code: int = SCANNER) -> None:
    """Write a one-channel image as NIfTI or MGZ, by the ending of ``path``.

    Args:
        image: one channel.
        path: its folder is made where it is missing.
        code: NIfTI's code of the space, for both forms.

    Raises:
        PatchMorphError: another ending, or a path that cannot be written.
    """
    path = Path(path)
    check_ending(path)
    array = image.data[0, 0].cpu().numpy()
    affine = image.grid.voxel_to_world[0].cpu().numpy()
    if path.name.endswith(MGH):
        if array.dtype not in (np.uint8, np.int16, np.int32, np.float32):
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
        volume = nibabel.MGHImage(array, affine)  # pyright: ignore[reportArgumentType]
    else:
        volume = nibabel.Nifti1Image(array, affine, dtype=array.dtype)
        set_forms(volume.header, affine, code)
    with whole_file(path) as temporary:
        nibabel.save(volume, temporary)


def check_ending(path: Path) -> None:
    """Check, before any work starts, that a file name has the ending of a format that can be written.

    Raises:
        PatchMorphError: another ending.
    """
    if not path.name.endswith(ENDINGS):
        raise PatchMorphError(f"image file must end in {', '.join(ENDINGS)}, got {path}")


def _reference(path: Path, assume_orientation: str | None) -> Reference:
    volume = open_volume(path)
    shape = shape_of(volume)
    if len(shape) < 3:
        raise PatchMorphError(f"image must have three axes, got shape {shape} in {path}")
    place = placement(volume, assume_orientation)
    grid = grid_of(place, triple(shape[:3]))
    return Reference(grid, place.code, place.notes, place.doubts)


def _shape(shape: tuple[int, ...], path: Path) -> Shape:
    if len(shape) < 3 or min(shape[:3]) < 2 or any(size != 1 for size in shape[3:]):
        raise PatchMorphError(f"image must be one 3D volume, got shape {shape} in {path}")
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
            return torch.from_numpy(np.array(array, dtype=dtype, order="C"))
    except FloatingPointError:
        raise PatchMorphError(
            f"image must hold numbers that fit float32, got larger ones in {path}"
        ) from None
