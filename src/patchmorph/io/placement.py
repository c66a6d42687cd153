"""Where the voxels of a file lie in the world: units, the forms of NIfTI, and files without an orientation.

NIfTI states the world by an sform, a qform or both, each with a code for the kind of space; 0 means that
the form is absent (nifti1.h). Its unit is the metre, the millimetre or the micrometre. As in nibabel the
sform comes first; as in ITK all lengths become millimetres.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import nibabel
import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import SpatialImage

from patchmorph.errors import PatchMorphError
from patchmorph.io.formats.base import LibraryVolume, path_of
from patchmorph.io.formats.nibabel_volumes import raw_header
from patchmorph.io.forms import form_notes
from patchmorph.io.headers import UNIT_BITS
from patchmorph.io.orientation import centered, convention, slices_first, why_unoriented
from patchmorph.io.stated import NOTHING, Directions, Stated

UNITS = {1: ("metre", 1e3), 3: ("micron", 1e-3)}
"""Units of NIfTI other than the millimetre, with their length in mm; unknown codes are millimetres."""
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


def placement(volume: SpatialImage, stated: Stated = NOTHING) -> Placement:
    """Where the voxels of a volume lie.

    Args:
        volume: as it was opened.
        stated: what the user states of a file whose header does not. A file without an orientation lies with
            the centre of its array at the origin. Without a statement its axes are taken as LAS, the
            convention of Analyze, as LIA for MGH, and as ITK takes them for NRRD and MetaImage.

    Raises:
        PatchMorphError: a matrix that is singular or not finite; a TIFF without voxel sizes or orientation.
    """
    name, missing = path_of(volume), why_unoriented(volume)
    axes = stated.axes(slices_first(volume))
    spacing, notes = _spacing(volume, stated)
    if missing:
        matrix = _assumed(volume, axes, spacing)
    else:
        matrix = np.array(np.nan * np.eye(4) if volume.affine is None else volume.affine, np.float64)
        if _own_spacing(volume) is None:
            with np.errstate(all="ignore"):  # a singular matrix is refused below
                matrix[:3, :3] *= np.array(spacing) / np.linalg.norm(matrix[:3, :3], axis=0)
    unit, mm = _unit(volume)
    matrix[:3] *= mm
    check_matrix(matrix, name)
    notes += () if mm == 1 else (f"{name}: lengths in {unit} were converted to mm",)
    notes += form_notes(volume, mm) + getattr(volume, "notes", ())
    doubts = _changed_values(volume) + getattr(volume, "doubts", ())
    codes = "".join(map(str, nibabel.aff2axcodes(matrix)))
    if missing and axes is not None:
        notes += (f"{name}: {missing}; its axes were taken as {codes}, as stated",)
    elif missing:
        taken = f"its axes were taken as {codes} (--assume-orientation states others)"
        doubts += (f"{name}: the orientation is unknown, since {missing}; {taken}",)
    return Placement(matrix, code_of(volume), notes, doubts)


def _assumed(volume: SpatialImage, axes: Directions | None, spacing: Sequence[float]) -> np.ndarray:
    """The matrix of a file without an orientation; its own is what ITK takes NRRD and MetaImage for."""
    if axes is not None:
        return centered(axes, spacing, volume)
    if slices_first(volume):
        raise PatchMorphError(
            "orientation must be stated (--fixed-orientation, --moving-orientation; in Python Stated), "
            "such as psl: the sides of the first voxel along slices, rows, columns, since "
            f"{why_unoriented(volume)}, got none for {path_of(volume)}"
        )
    own = isinstance(volume, LibraryVolume) and volume.spacing_mm is not None
    return np.array(volume.affine) if own else centered(convention(volume), spacing, volume)


def _spacing(volume: SpatialImage, stated: Stated) -> tuple[Sequence[float], tuple[str, ...]]:
    """Voxel sizes along the axes in the file's unit, and a note where a stated size is another."""
    own, given = _own_spacing(volume), stated.spacings(slices_first(volume))
    if own is None and given is None:
        assert isinstance(volume, LibraryVolume)
        raise PatchMorphError(
            f"voxel sizes must be stated (--fixed-spacing, --moving-spacing; in Python Stated), "
            f"since {volume.without_spacing}, got none for {path_of(volume)}"
        )
    if own is None or given is None or np.allclose(np.multiply(own, _unit(volume)[1]), given, rtol=1e-3):
        return own or given or (), ()
    order = slice(None, None, -1 if slices_first(volume) else 1)
    sizes = [", ".join(f"{size:g}" for size in values[order]) for values in (own, given)]
    if slices_first(volume):
        note = f"{path_of(volume)}: its voxel sizes of {sizes[0]} mm were replaced by {sizes[1]} mm"
        return given, (note,)
    return own, (f"{path_of(volume)}: its header's voxel sizes were kept; {sizes[1]} mm were stated",)


def _own_spacing(volume: SpatialImage) -> tuple[float, ...] | None:
    """Voxel sizes that the file states, in its unit."""
    if isinstance(volume, LibraryVolume):
        return volume.spacing_mm
    return tuple(float(size) for size in volume.header.get_zooms()[:3])


def _unit(volume: SpatialImage) -> tuple[str, float]:
    if not isinstance(volume.header, Nifti1Header):
        return "mm", 1.0
    return UNITS.get(int(volume.header["xyzt_units"]) & UNIT_BITS, ("mm", 1.0))


def code_of(volume: SpatialImage) -> int:
    """NIfTI's code of a volume's space; 1 (scanner) where none is stated."""
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


def check_matrix(matrix: np.ndarray, name: object) -> None:
    """Check that a voxel-to-world matrix ``[4, 4]`` can be that of an image.

    Raises:
        PatchMorphError: not finite, singular, or lengths beyond those of any image.
    """
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
