"""Orientations by three letters, and files that state none."""

from pathlib import Path

import numpy as np
from nibabel.analyze import AnalyzeImage
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import SpatialImage

from patchmorph.errors import PatchMorphError
from patchmorph.io.volumes import header_bytes, shape_of

Directions = tuple[tuple[int, int], ...]
"""World axis and sign of each array axis."""
AXES = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}
"""World axis and sign of each direction."""
GOOD_RAS = slice(28, 30)
"""Bytes of the flag in an MGH header by which its orientation is valid."""


def parse_orientation(orientation: str) -> Directions:
    """World axis and sign of each array axis for three letters such as RAS or lip.

    Raises:
        PatchMorphError: not one letter each of L or R, P or A, I or S.
    """
    letters = orientation.upper()
    if len(letters) != 3 or {AXES.get(letter, (-1, 0))[0] for letter in letters} != {0, 1, 2}:
        raise PatchMorphError(
            f"orientation must be one letter each of L or R, P or A, I or S, such as RAS, got {orientation}"
        )
    return tuple(AXES[letter] for letter in letters)


def why_unoriented(volume: SpatialImage) -> str:
    """Why the orientation of a file is unknown; empty if it is known."""
    header = volume.header
    if isinstance(header, Nifti1Header):
        coded = int(header["sform_code"]) or int(header["qform_code"])
        return "" if coded else "its sform and qform codes are 0"
    if isinstance(volume, AnalyzeImage):  # SPM keeps an orientation in a file beside it
        matrix = volume.file_map.get("mat")
        return "" if matrix and Path(str(matrix.filename)).is_file() else "Analyze files hold none"
    if isinstance(header, MGHHeader) and not any(header_bytes(volume)[GOOD_RAS]):
        return "its flag of a valid orientation is 0"
    return ""


def convention(volume: SpatialImage) -> Directions:
    """The directions of the axes of a file without an orientation, by the convention of its format."""
    return parse_orientation("LIA" if isinstance(volume.header, MGHHeader) else "LAS")


def centered(directions: Directions, volume: SpatialImage) -> np.ndarray:
    """The matrix of an array whose axes run in ``directions``, its centre at the origin; the file's unit."""
    affine, zooms = np.diag([0.0, 0, 0, 1]), volume.header.get_zooms()
    for column, (axis, sign) in enumerate(directions):
        affine[axis, column] = sign * abs(float(zooms[column]))
    last = 0 if isinstance(volume.header, MGHHeader) else 1  # FreeSurfer's centre is voxel n / 2
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape_of(volume)[:3]) - last) / 2)
    return affine
