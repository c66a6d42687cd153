"""Images as other libraries hold them: nibabel, SimpleITK, arrays with an affine; to and from our images."""

import os
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from nibabel.spatialimages import SpatialImage

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.images.exports import Exportable
from patchmorph.images.volume import Image
from patchmorph.io.formats.base import shape_of
from patchmorph.io.formats.itk_volumes import array_of, itk_image, number_type, ras_matrix
from patchmorph.io.grids import matrix_of
from patchmorph.io.headers import set_forms
from patchmorph.io.images import check_frame, image_from, load_image
from patchmorph.io.placement import SCANNER, Placement, check_matrix, placement
from patchmorph.io.templates import image_path
from patchmorph.io.volumes import read_voxels

AnyImage = Any
"""What `as_image` takes; checked there, so that a wrong type is an error for a user."""
KINDS = "a path, a patchmorph.Image, a nibabel or SimpleITK image, or (array, affine)"


def as_image(given: AnyImage, name: str = "image") -> Image:
    """The image that a user gave.

    Args:
        given: a path (see `patchmorph.io.images.load_image`) or a template's name (see
            `patchmorph.io.templates.image_path`), one of our images, a nibabel or SimpleITK image
            or ``(array, affine)``: numpy or torch ``[X, Y, Z]`` in nibabel's order, and 4×4, voxel to world,
            RAS+ mm. Further axes of length 1 are dropped, and truth values become 0 and 1.
        name: of the argument, for messages.

    Raises:
        PatchMorphError: another type, another shape, no plain numbers, or an affine that is none.
    """
    if isinstance(given, Image):
        return given
    if isinstance(given, str | os.PathLike):
        return load_image(image_path(os.fsdecode(given)))
    if isinstance(given, SpatialImage):
        return _from_nibabel(given, name)
    if is_simpleitk(given):
        return _from_simpleitk(given, name)
    if isinstance(given, tuple | list) and len(given) == 2:
        return _from_array(given[0], given[1], name)
    got = (
        f"{type(given).__name__} of {len(given)}" if isinstance(given, tuple | list) else type(given).__name__
    )
    raise PatchMorphError(f"{name} must be {KINDS}, got {got}")


def is_simpleitk(given: object, kind: str = "Image") -> bool:
    """Whether an object is SimpleITK's, without loading it."""
    library = sys.modules.get("SimpleITK")
    return library is not None and isinstance(given, getattr(library, kind))


def to_nibabel(image: Exportable) -> nibabel.Nifti1Image:
    """A nibabel image of the voxels ``[X, Y, Z]``, or ``[X, Y, Z, C]`` of several channels."""
    array, matrix = image.numpy(), matrix_of(image.grid)
    volume = nibabel.Nifti1Image(array, matrix, dtype=array.dtype)
    set_forms(volume.header, matrix, SCANNER)
    return volume


def to_simpleitk(image: Exportable) -> Any:
    """A SimpleITK image of the same voxels in the same place: its world is LPS+ mm."""
    return itk_image(image.numpy(), matrix_of(image.grid))


def _from_nibabel(volume: SpatialImage, name: str) -> Image:
    path = Path(volume.get_filename() or name)
    shape = check_frame(shape_of(volume), path)
    return image_from(read_voxels(volume).reshape(shape), placement(volume), path)


def _from_simpleitk(image: Any, name: str) -> Image:
    path = Path(name)
    number_type(image.GetPixelID(), path)
    array = array_of(image)
    shape = check_frame(array.shape, path)
    matrix = ras_matrix(image.GetSpacing(), image.GetDirection(), image.GetOrigin())
    check_matrix(matrix, name)
    return image_from(array.reshape(shape), Placement(matrix), path)


def _from_array(array: Any, affine: Any, name: str) -> Image:
    path = Path(name)
    if not isinstance(array, np.ndarray | torch.Tensor):
        raise PatchMorphError(f"array of {name} must be of numpy or torch, got {type(array).__name__}")
    voxels = _plain(array, name)
    shape = check_frame(voxels.shape, path)
    return image_from(voxels.reshape(shape), Placement(_affine(affine, name)), path)


def _plain(array: np.ndarray | torch.Tensor, name: str) -> np.ndarray:
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.dtype == torch.bfloat16 else array).numpy()
    if array.dtype.kind not in "iufb":
        raise PatchMorphError(f"array of {name} must hold plain numbers, got {array.dtype}")
    return array.astype(np.uint8) if array.dtype.kind == "b" else array


def _affine(affine: Any, name: str) -> np.ndarray:
    """Voxel to world, RAS+ mm, float64 ``[4, 4]``."""
    try:
        values = affine.detach().cpu().numpy() if isinstance(affine, torch.Tensor) else np.asarray(affine)
        matrix = np.array(values, np.float64) if values.dtype.kind in "iuf" else None
    except (TypeError, ValueError) as error:
        raise PatchMorphError(
            f"affine of {name} must be numbers of shape (4, 4), got {one_line(error)}"
        ) from None
    if matrix is None or matrix.shape != (4, 4):
        got = type(affine).__name__ if matrix is None else f"shape {matrix.shape}"
        raise PatchMorphError(f"affine of {name} must be numbers of shape (4, 4), got {got}")
    if not np.array_equal(matrix[3], (0, 0, 0, 1)):
        raise PatchMorphError(f"last row of the affine must be 0 0 0 1, got {matrix[3].tolist()} in {name}")
    check_matrix(matrix, name)
    return matrix
