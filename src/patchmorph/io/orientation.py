"""Files that state no orientation: why, and where their voxels are taken to lie."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nibabel.analyze import AnalyzeImage
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import SpatialImage

from patchmorph.io.formats.base import LibraryVolume, shape_of
from patchmorph.io.formats.nibabel_volumes import header_bytes
from patchmorph.io.stated import Directions, parse_orientation

GOOD_RAS = slice(28, 30)
"""Bytes of the flag in an MGH header by which its orientation is valid."""


def why_unoriented(volume: SpatialImage) -> str:
    """Why the orientation of a file is unknown; empty if it is known."""
    header = volume.header
    if isinstance(volume, LibraryVolume):
        return volume.unoriented
    if isinstance(header, Nifti1Header):
        coded = int(header["sform_code"]) or int(header["qform_code"])
        return "" if coded else "its sform and qform codes are 0"
    if isinstance(volume, AnalyzeImage):  # SPM keeps an orientation in a file beside it
        matrix = volume.file_map.get("mat")
        return "" if matrix and Path(str(matrix.filename)).is_file() else "Analyze files hold none"
    if isinstance(header, MGHHeader) and not any(header_bytes(volume)[GOOD_RAS]):
        return "its flag of a valid orientation is 0"
    return ""


def slices_first(volume: SpatialImage) -> bool:
    """Whether `Stated` counts slices, rows, columns, and the array the reverse."""
    return isinstance(volume, LibraryVolume) and volume.slices_first


def convention(volume: SpatialImage) -> Directions:
    """The directions of the axes of a file without an orientation, by the convention of its format."""
    return parse_orientation("LIA" if isinstance(volume.header, MGHHeader) else "LAS")


def centered(directions: Directions, spacing: Sequence[float], volume: SpatialImage) -> np.ndarray:
    """The matrix of an array whose axes run in ``directions``, its centre at the origin; the file's unit."""
    affine = np.diag([0.0, 0, 0, 1])
    for column, (axis, sign) in enumerate(directions):
        affine[axis, column] = sign * abs(float(spacing[column]))
    last = 0 if isinstance(volume.header, MGHHeader) else 1  # FreeSurfer's centre is voxel n / 2
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape_of(volume)[:3]) - last) / 2)
    return affine
