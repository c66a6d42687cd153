"""Volumes on disk: NIfTI and MGZ."""

import zlib
from pathlib import Path

import nibabel
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage

from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import whole_file
from patchmorph.spatial.grid import Grid, triple
from patchmorph.spatial.image import Image

ENDINGS = (".nii", ".nii.gz", ".mgz", ".mgh")
_UNREADABLE = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error)
_WIDER = {np.dtype("u2"): np.int32, np.dtype("u4"): np.int64, np.dtype("u8"): np.int64}


def load_image(path: str | Path) -> Image:
    """Read a 3D volume (a fourth axis of one frame is dropped) with its affine, in RAS+ mm.

    The array keeps its order and integer types: nothing is reoriented or rescaled but by the header's own
    slope and intercept.

    Raises:
        PatchMorphError: no such file, no image, not one 3D frame, or an affine that has no inverse.
    """
    path = Path(path)
    volume = _open(path)
    try:
        array = np.asarray(volume.dataobj)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    return Image(_to_tensor(array, path)[None, None], _grid(volume, path), str(path))


def load_grid(path: str | Path) -> Grid:
    """The grid of the volume in a file, from its header alone.

    Raises:
        PatchMorphError: as `load_image`.
    """
    return _grid(_open(Path(path)), Path(path))


def _open(path: Path) -> SpatialImage:
    if not path.is_file():
        raise PatchMorphError(f"image must be an existing file, got {path}")
    try:
        volume = nibabel.load(path)
        if not isinstance(volume, SpatialImage):
            raise ImageFileError(f"a {type(volume).__name__} is no volume")
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None
    return volume


def _unreadable(path: Path, error: Exception) -> PatchMorphError:
    return PatchMorphError(f"image must be a readable NIfTI or MGZ volume, got {path}: {error}")


def _grid(volume: SpatialImage, path: Path) -> Grid:
    shape = volume.shape[:3] if volume.shape[3:] == (1,) else volume.shape
    if len(shape) != 3 or min(shape) < 2:
        raise PatchMorphError(f"image must be one 3D volume, got shape {volume.shape} in {path}")
    return Grid(triple(int(n) for n in shape), _affine(volume, path))


def save_image(image: Image, path: str | Path) -> None:
    """Write a one-channel image as NIfTI or MGZ, by its ending.

    Raises:
        PatchMorphError: another ending.
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
    """Refuse a file name of a format that cannot be written, before any work is done for it."""
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


def _to_tensor(array: np.ndarray, path: Path) -> torch.Tensor:
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind not in "iufb":
        raise PatchMorphError(f"image must hold plain numbers, got {dtype} in {path}")
    dtype = np.dtype(_WIDER.get(dtype, dtype))
    if dtype.kind == "f":
        dtype = np.dtype(np.float32)
    return torch.from_numpy(np.array(array, dtype=dtype, order="C"))
