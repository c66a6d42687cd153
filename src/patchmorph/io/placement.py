"""Where the voxels of a file lie in the world: units, the forms of NIfTI, and files without an orientation.

NIfTI states the world by an sform, a qform or both, each with a code for the kind of space; 0 means that
the form is absent (nifti1.h). Its unit is the metre, the millimetre or the micrometre. As in nibabel the
sform comes first; as in ITK all lengths become millimetres.
"""

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from nibabel.analyze import AnalyzeImage
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import SpatialImage

from patchmorph.errors import PatchMorphError
from patchmorph.io.volumes import header_bytes, path_of

UNITS = {1: ("metre", 1e3), 3: ("micron", 1e-3)}
"""Units of NIfTI other than the millimetre, with their length in mm; unknown codes are millimetres."""
UNIT_BITS = 7
"""Bits of ``xyzt_units`` that hold the unit of space."""
AXES = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}
"""World axis and sign of each direction."""
SCANNER = 1
"""NIfTI's code of scanner coordinates."""
TOLERANCE_MM = 0.01
"""Distance between two forms that is not reported: tools that write both round them differently."""
GOOD_RAS = slice(28, 30)
"""Bytes of the flag in an MGH header by which its orientation is valid."""


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
    directions = None if assume_orientation is None else parse_orientation(assume_orientation)
    name = path_of(volume)
    unit, mm = _unit(volume)
    affine = np.array(volume.affine if volume.affine is not None else np.full((4, 4), np.nan), np.float64)
    notes = () if mm == 1 else (f"{name}: lengths in {unit} were converted to mm",)
    doubts: tuple[str, ...] = ()
    missing = _why_unoriented(volume)
    if missing and directions is not None:
        affine = _centered(directions, volume)
        notes += (f"{name}: {missing}; taken as stored {assume_orientation} as stated",)
    elif missing:
        codes = "".join(map(str, nibabel.aff2axcodes(affine)))
        doubts = (f"{name}: the orientation is unknown, since {missing}; taken as stored {codes}",)
    matrix = np.diag([mm, mm, mm, 1.0]) @ affine
    _check(matrix, name)
    return Placement(matrix, _code(volume), notes + _form_notes(volume, mm), doubts)


def parse_orientation(orientation: str) -> tuple[tuple[int, int], ...]:
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


def _unit(volume: SpatialImage) -> tuple[str, float]:
    if not isinstance(volume.header, Nifti1Header):
        return "mm", 1.0
    return UNITS.get(int(volume.header["xyzt_units"]) & UNIT_BITS, ("mm", 1.0))


def _why_unoriented(volume: SpatialImage) -> str:
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


def _centered(directions: tuple[tuple[int, int], ...], volume: SpatialImage) -> np.ndarray:
    """The matrix of an array whose axes run in ``directions``, its centre at the origin; the file's unit."""
    affine, zooms = np.diag([0.0, 0, 0, 1]), volume.header.get_zooms()
    for column, (axis, sign) in enumerate(directions):
        affine[axis, column] = sign * abs(float(zooms[column]))
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(volume.shape[:3]) - 1) / 2)
    return affine


def _code(volume: SpatialImage) -> int:
    if not isinstance(volume.header, Nifti1Header):
        return SCANNER
    return int(volume.header["sform_code"]) or int(volume.header["qform_code"]) or SCANNER


def _form_notes(volume: SpatialImage, mm: float) -> tuple[str, ...]:
    """A note where sform and qform place the corners of the grid at different points."""
    header = volume.header
    if not isinstance(header, Nifti1Header) or not (int(header["sform_code"]) and int(header["qform_code"])):
        return ()
    try:
        forms = [np.asarray(form, np.float64) * mm for form in (header.get_sform(), header.get_qform())]
    except ValueError:
        return (f"{path_of(volume)}: its qform holds no rotation; the sform was used",)
    corners = np.stack(np.meshgrid(*((0, count - 1) for count in volume.shape[:3]), indexing="ij"), -1)
    first, second = (corners.reshape(-1, 3) @ form[:3, :3].T + form[:3, 3] for form in forms)
    distances, extent = np.linalg.norm(first - second, axis=1), np.ptp(first, axis=0)
    tolerance = TOLERANCE_MM + np.finfo(np.float32).eps * 8 * np.abs(forms[0][:3, 3]).max()
    turn = _rounded_turn(header)
    if distances[0] <= tolerance and distances.max() <= tolerance + turn * np.linalg.norm(extent):
        return ()
    codes = f"sform (code {int(header['sform_code'])}) and qform (code {int(header['qform_code'])})"
    return (f"{path_of(volume)}: {codes} differ by up to {distances.max():.2f} mm; the sform was used",)


def _rounded_turn(header: Nifti1Header) -> float:
    """Angle in radians by which rounding to float32 can turn a qform.

    NIfTI stores b, c, d of a unit quaternion and a = √(1 − b² − c² − d²). A rounding error of a² is divided
    by 2a, so near a half turn (a = 0, as in every LAS and LPS file) it is amplified to its square root.
    """
    error = 4 * float(np.finfo(np.float32).eps)
    squares = [float(header[f"quatern_{letter}"]) ** 2 for letter in "bcd"]
    a = np.sqrt(max(0.0, 1 - sum(squares)))
    return 2 * min(np.sqrt(error), error / (2 * a) if a else np.inf)


def _check(matrix: np.ndarray, name: object) -> None:
    if not np.isfinite(matrix).all():
        raise PatchMorphError(f"affine must be finite, got {matrix[:3].tolist()} in {name}")
    determinant = float(np.linalg.det(matrix[:3, :3]))
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if abs(determinant) <= 1e-6 * lengths.prod():
        raise PatchMorphError(f"affine must be invertible, got determinant {determinant:.3g} in {name}")
