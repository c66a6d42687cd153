"""Volumes on disk: NIfTI and MGZ."""

import zlib
from pathlib import Path

import nibabel
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage

from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.atomic import whole_file
from patchmorph.spatial.grid import Grid, Shape, triple

ENDINGS = (".nii", ".nii.gz", ".mgz", ".mgh")
UNREADABLE = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error)
"""Exceptions that nibabel raises for broken files."""
_WIDER = {np.dtype("u2"): np.int32, np.dtype("u4"): np.int64, np.dtype("u8"): np.int64}


def load_image(path: str | Path) -> Image:
    """Read a 3D volume (a fourth axis of length 1 is dropped) with its affine, in RAS+ mm.

    The array keeps its axis order and integer type. Nothing is reoriented, and values are rescaled only by
    the header's slope and intercept.

    Raises:
        PatchMorphError: no such file, not an image, not one 3D frame, or a singular affine.
    """
    path = Path(path)
    volume = open_volume(path)
    try:
        array = np.asarray(volume.dataobj)
    except UNREADABLE as error:
        raise unreadable(path, error) from None
    return image_from(array.reshape(_shape(volume, path)), volume, path)


def image_from(array: np.ndarray, volume: SpatialImage, path: Path, exact: bool = False) -> Image:
    """One frame ``[X, Y, Z]`` of a volume; ``exact`` keeps float64, which may hold large label ids.

    Raises:
        PatchMorphError: a type that is not a plain number, or a singular affine.
    """
    grid = Grid(triple(array.shape), _affine(volume, path))
    return Image(_to_tensor(array, path, exact)[None, None], grid, str(path))


def load_grid(path: str | Path) -> Grid:
    """The grid of a volume, from the file's header alone; axes after the third are ignored.

    Raises:
        PatchMorphError: no such file, not an image of three or more axes, or a singular affine.
    """
    volume = open_volume(Path(path))
    if len(volume.shape) < 3:
        raise PatchMorphError(f"image must have three axes, got shape {volume.shape} in {path}")
    return Grid(triple(int(n) for n in volume.shape[:3]), _affine(volume, Path(path)))


def open_volume(path: Path) -> SpatialImage:
    """Open a volume whose voxels are read on access.

    Raises:
        PatchMorphError: no such file, or not an image.
    """
    if not path.is_file():
        raise PatchMorphError(f"image must be an existing file, got {path}")
    try:
        volume = nibabel.load(path, keep_file_open=True)  # successive frames are read without reopening
        if not isinstance(volume, SpatialImage):
            raise ImageFileError(f"a {type(volume).__name__} is no volume")
    except UNREADABLE as error:
        raise unreadable(path, error) from None
    return volume


def unreadable(path: Path, error: Exception) -> PatchMorphError:
    """The error to raise for an exception of `UNREADABLE`."""
    return PatchMorphError(f"image must be a readable NIfTI or MGZ volume, got {path}: {error}")


def _shape(volume: SpatialImage, path: Path) -> Shape:
    shape = volume.shape[:3] if volume.shape[3:] == (1,) else volume.shape
    if len(shape) != 3 or min(shape) < 2:
        raise PatchMorphError(f"image must be one 3D volume, got shape {volume.shape} in {path}")
    return triple(int(n) for n in shape)


def save_image(image: Image, path: str | Path) -> None:
    """Write a one-channel image as NIfTI or MGZ, by the ending of ``path``.

    Raises:
        PatchMorphError: another ending, or a path that cannot be written.
    """
    path = Path(path)
    check_ending(path)
    array = image.data[0, 0].cpu().numpy()
    affine = image.grid.voxel_to_world[0].cpu().numpy()
    if path.name.endswith((".mgz", ".mgh")):
        if array.dtype not in (np.uint8, np.int16, np.int32, np.float32):
            array = array.astype(np.float32 if array.dtype.kind == "f" else np.int32)
        volume = nibabel.MGHImage(array, affine)  # pyright: ignore[reportArgumentType]
    else:
        volume = nibabel.Nifti1Image(array, affine, dtype=array.dtype)
        volume.header.set_xyzt_units("mm")
    with whole_file(path) as temporary:
        nibabel.save(volume, temporary)


def check_ending(path: Path) -> None:
    """Check, before any work starts, that a file name has the ending of a format that can be written.

    Raises:
        PatchMorphError: another ending.
    """
    if not path.name.endswith(ENDINGS):
        raise PatchMorphError(f"image file must end in {', '.join(ENDINGS)}, got {path}")


def _affine(volume: SpatialImage, path: Path) -> torch.Tensor:
    affine = volume.affine
    if affine is None or not np.isfinite(affine).all():
        raise PatchMorphError(f"affine must be finite, got {affine} in {path}")
    determinant = float(np.linalg.det(affine[:3, :3]))
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if abs(determinant) <= 1e-6 * lengths.prod():
        raise PatchMorphError(f"affine must be invertible, got determinant {determinant:.3g} in {path}")
    return torch.from_numpy(np.array(affine, dtype=np.float64))[None]


def _to_tensor(array: np.ndarray, path: Path, exact: bool) -> torch.Tensor:
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind not in "iufb":
        raise PatchMorphError(f"image must hold plain numbers, got {dtype} in {path}")
    dtype = np.dtype(_WIDER.get(dtype, dtype))
    if dtype.kind == "f" and not (exact and dtype == np.float64):
        dtype = np.dtype(np.float32)
    return torch.from_numpy(np.array(array, dtype=dtype, order="C"))
