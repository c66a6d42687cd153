"""Whether the numbers of a deformation field are positions or displacements, by the numbers themselves.

Positions grow with the coordinates as a map between two heads does; displacements hardly grow. FSL tells them
apart likewise, by their spread (``newimage/warpfns.cc``).
"""

from pathlib import Path

import numpy as np

from patchmorph.errors import PatchMorphError
from patchmorph.io.transforms.field_headers import Kind

ABSURD = 1e6
"""Numbers that are no coordinates, in mm or voxels."""
MAX_LOG_SCALE = 0.4
"""Logarithm of the largest scale, 1.5, of what counts as a map between heads."""
MAX_SCALE = 30.0
"""Largest scale of any map between brains, from a shrew's to a whale's; a change of unit is a thousand."""
MAX_SLOPE = 0.1
"""Growth with the coordinates up to which numbers are displacements, not positions."""
MAX_CONDITION = 3.0
"""Ratio of the largest and the smallest scale of a map between heads, of whatever species."""


def checked_kind(kind: Kind | None, start: np.ndarray, numbers: np.ndarray, path: Path) -> Kind:
    """The kind, told by the numbers where it is ``None`` and checked against them where it is not.

    Args:
        kind: what the tool or the header states.
        start: coordinates of the voxels, ``[..., 3]``.
        numbers: of these voxels, ``[..., 3]``.
        path: for messages.

    Raises:
        PatchMorphError: numbers of the other kind, mirrored ones, or ones that could be either.
    """
    slopes = _slopes(start, numbers)
    if slopes is None:
        return kind or "displacement"
    if (scale := np.linalg.norm(slopes, 2)) > MAX_SCALE:
        limit = f"at most {MAX_SCALE:g} (another unit?)"
        raise PatchMorphError(f"deformation field must scale by {limit}, got {scale:.3g} in {path}")
    if kind is None:
        return _told_kind(slopes, path)
    if kind == "displacement" and _log_scale(slopes, mirrored=True) < MAX_LOG_SCALE:
        what, got = "displacements", "positions (they grow with the coordinates)"
    elif kind == "positions" and _are_displacements(slopes):
        what, got = "positions", "displacements (they hardly grow with the coordinates)"
    elif kind == "positions" and np.linalg.det(slopes) < 0:
        what, got = "positions along its axes", "mirrored ones"
    else:
        return kind
    raise PatchMorphError(f"deformation field must hold {what}, got {got} in {path}")


def are_positions(start: np.ndarray, numbers: np.ndarray) -> bool:
    """Whether ``start`` ↦ ``numbers`` is near an affine map between heads."""
    slopes = _slopes(start, numbers)
    return slopes is not None and _log_scale(slopes) < MAX_LOG_SCALE


def _are_displacements(slopes: np.ndarray) -> bool:
    """Whether numbers that grow by ``slopes`` can't be positions, but are plausible displacements."""
    scales = np.linalg.svd(slopes, compute_uv=False)
    uneven = scales[0] > MAX_CONDITION * scales[-1] and _log_scale(slopes + np.eye(3)) < MAX_LOG_SCALE
    return bool(scales[0] < MAX_SLOPE or uneven)


def _told_kind(slopes: np.ndarray, path: Path) -> Kind:
    if _log_scale(slopes) < MAX_LOG_SCALE:
        return "positions"
    if _log_scale(slopes + np.eye(3)) < MAX_LOG_SCALE:
        return "displacement"
    raise PatchMorphError(
        "deformation field must hold positions or displacements of a map that scales by 0.67 to 1.5, "
        f"got neither in {path}"
    )


def _slopes(start: np.ndarray, numbers: np.ndarray) -> np.ndarray | None:
    """The linear part of the affine map nearest to ``start`` ↦ ``numbers``, ``[3, 3]``.

    Zeros are left out, which mark what is not mapped among positions, and what no map has. ``None`` if
    nothing is left.
    """
    known = (np.abs(numbers) < ABSURD).all(-1) & numbers.any(-1)
    if not known.any():
        return None
    columns = np.pad(start[known], ((0, 0), (0, 1)), constant_values=1)
    return np.linalg.lstsq(columns, numbers[known], rcond=None)[0][:3].T


def _log_scale(slopes: np.ndarray, mirrored: bool = False) -> float:
    """Largest logarithm of the scales of a linear map; infinite if it is singular or must not mirror."""
    scales = np.linalg.svd(slopes, compute_uv=False)
    if scales[-1] < np.finfo(float).tiny or (np.linalg.det(slopes) < 0 and not mirrored):
        return np.inf
    return float(np.abs(np.log(scales)).max())
