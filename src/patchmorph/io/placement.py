"""Where the voxels of a file lie in the world: units, the forms of NIfTI, and files without an orientation.

NIfTI states the world by an sform, a qform or both, each with a code for the kind of space; 0 means that
the form is absent (nifti1.h). Its unit is the metre, the millimetre or the micrometre. As in nibabel the
sform comes first; as in ITK all lengths become millimetres.
"""

from dataclasses import dataclass

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import SpatialImage

from patchmorph.errors import PatchMorphError
from patchmorph.io.forms import form_notes
from patchmorph.io.orientation import centered, convention, parse_orientation, why_unoriented
from patchmorph.io.volumes import path_of, raw_header

UNITS = {1: ("metre", 1e3), 3: ("micron", 1e-3)}
"""Units of NIfTI other than the millimetre, with their length in mm; unknown codes are millimetres."""
UNIT_BITS = 7
"""Bits of ``xyzt_units`` that hold the unit of space."""
SCANNER = 1
"""NIfTI's code of scanner coordinates."""
MIN_SPACING_MM, MAX_LENGTH_MM = 1e-7, 1e7
"""Lengths beyond which a matrix is regarded as broken: points are float32."""


@dataclass(frozen=True)
class Placement:
    """Where the voxels of a file lie.

    Attributes:
        matrix: voxel to world, RAS+ mm, float64 ``[4, 4]``.
        code: NIfTI's code of the space: 1 scanner, 2 aligned, 3 Talairach, 4 MNI; 1 where none is stated.
        notes: how the header was read where that is not obvious, one sentence each.
        doubts: assumptions that a user should check, one sentence each.
    """

    matrix: np.ndarray
    code: int = SCANNER
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


def world_matrix(volume: SpatialImage) -> np.ndarray:
    """Voxel to world, RAS+ mm, float64 ``[4, 4]``, of any volume: the matrix of `placement`."""
    return placement(volume).matrix


def placement(volume: SpatialImage, assume_orientation: str | None = None) -> Placement:
    """Where the voxels of a volume lie.

    Args:
        volume: as it was opened.
        assume_orientation: directions in which the array axes of a file without an orientation run, such as
            RAS; by default LAS, the convention of Analyze, or LIA for MGH. The centre of the array is the
            origin. Files that state an orientation are not affected.

    Raises:
        PatchMorphError: not one of the 48 orientations, or a matrix that is singular or not finite.
    """
    stated = None if assume_orientation is None else parse_orientation(assume_orientation)
    name, missing = path_of(volume), why_unoriented(volume)
    if missing:
        matrix = centered(stated or convention(volume), volume)
    else:
        matrix = np.array(np.nan * np.eye(4) if volume.affine is None else volume.affine, np.float64)
    unit, mm = _unit(volume)
    matrix[:3] *= mm
    _check(matrix, name)
    notes = () if mm == 1 else (f"{name}: lengths in {unit} were converted to mm",)
    notes += form_notes(volume, mm)
    doubts = _changed_values(volume)
    codes = "".join(map(str, nibabel.aff2axcodes(matrix)))
    if missing and stated is not None:
        notes += (f"{name}: {missing}; its axes were taken as {codes}, as stated",)
    elif missing:
        taken = f"its axes were taken as {codes} (--assume-orientation states others)"
        doubts += (f"{name}: the orientation is unknown, since {missing}; {taken}",)
    return Placement(matrix, _code(volume), notes, doubts)


def _unit(volume: SpatialImage) -> tuple[str, float]:
    if not isinstance(volume.header, Nifti1Header):
        return "mm", 1.0
    return UNITS.get(int(volume.header["xyzt_units"]) & UNIT_BITS, ("mm", 1.0))


def _code(volume: SpatialImage) -> int:
    if not isinstance(volume.header, Nifti1Header):
        return SCANNER
    return int(volume.header["sform_code"]) or int(volume.header["qform_code"]) or SCANNER


def _changed_values(volume: SpatialImage) -> tuple[str, ...]:
    """Doubts about values of a NIfTI header that nibabel replaces: unknown codes, negative voxel sizes."""
    header, doubts = volume.header, []
    if not isinstance(header, Nifti1Header):
        return ()
    raw = raw_header(volume, header)
    for form in ("sform", "qform"):
        code = int(raw[f"{form}_code"])
        if code != int(header[f"{form}_code"]):
            doubts.append(f"{path_of(volume)}: its {form} was ignored, since NIfTI has no code {code}")
    if not int(header["sform_code"]) and min(float(size) for size in raw["pixdim"][1:4]) < 0:
        doubts.append(f"{path_of(volume)}: its voxel sizes are negative; their signs were ignored")
    return tuple(doubts)


def _check(matrix: np.ndarray, name: object) -> None:
    got = f"got {matrix[:3].tolist()} in {name}"
    if not np.isfinite(matrix).all():
        raise PatchMorphError(f"affine must be finite, {got}")
    if np.abs(matrix).max() > MAX_LENGTH_MM:
        raise PatchMorphError(f"affine must hold lengths below {MAX_LENGTH_MM:g} mm, {got}")
    determinant = float(np.linalg.det(matrix[:3, :3]))
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if abs(determinant) <= 1e-6 * lengths.prod():
        raise PatchMorphError(f"affine must be invertible, got determinant {determinant:.3g} in {name}")
    if lengths.min() < MIN_SPACING_MM:
        raise PatchMorphError(f"affine must have voxels above {MIN_SPACING_MM:g} mm, {got}")
