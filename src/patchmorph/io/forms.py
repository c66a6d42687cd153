"""Whether the two forms of a NIfTI header, sform and qform, place an image at the same points."""

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.spatialimages import SpatialImage

from patchmorph.io.formats.base import path_of, shape_of

TOLERANCE_MM = 0.01
"""Distance between two forms that is not reported: tools that write both round them differently."""


def form_notes(volume: SpatialImage, mm: float) -> tuple[str, ...]:
    """A note where sform and qform place the corners of the grid at different points."""
    header = volume.header
    if not isinstance(header, Nifti1Header) or not (int(header["sform_code"]) and int(header["qform_code"])):
        return ()
    try:
        forms = [np.asarray(form, np.float64) * mm for form in (header.get_sform(), header.get_qform())]
    except ValueError:  # the quaternion is longer than one
        forms = [np.eye(4), np.full((4, 4), np.nan)]
    corners = np.stack(np.meshgrid(*((0, count - 1) for count in shape_of(volume)[:3]), indexing="ij"), -1)
    with np.errstate(all="ignore"):
        first, second = (corners.reshape(-1, 3) @ form[:3, :3].T + form[:3, 3] for form in forms)
        distances, extent = np.linalg.norm(first - second, axis=1), np.ptp(first, axis=0)
    if not np.isfinite(distances).all():
        return (f"{path_of(volume)}: its qform is no rotation; the sform was used",)
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
