"""Headers of results: one matrix in both forms of NIfTI, in mm; nothing that holds for the source alone."""

from typing import Any

import nibabel
import numpy as np

from patchmorph.io.grids import is_square

UNIT_BITS = 7
"""Bits of ``xyzt_units`` that hold the unit of space."""
MM = 2
"""NIfTI's code of the millimetre."""
SLICES = ("dim_info", "slice_code", "slice_start", "slice_end", "slice_duration")
STALE = ("cal_min", "cal_max", *SLICES)
"""Fields that hold for a source alone: its display range, and the order of slices along its own axes."""
MGH_TYPES = ("uint8", "int16", "int32", "float32")
MGH_FALLBACK = {"f": "float32", "i": "int32", "u": "int32", "b": "uint8"}
"""MGH type for each numpy kind, where MGH lacks the type itself."""


def set_forms(header: Any, matrix: np.ndarray, code: int) -> None:
    """State one matrix in both forms of a NIfTI header, by one code; the unit of space becomes the mm.

    A qform is a rotation with voxel sizes, so a sheared matrix is stated by the sform alone.

    Args:
        header: NIfTI-1 or NIfTI-2.
        matrix: voxel to world, RAS+ mm, float64 ``[4, 4]``.
        code: NIfTI's code of the space.
    """
    header.set_sform(matrix, code=code)
    header.set_qform(matrix, code=code if is_square(matrix) else 0)
    header["xyzt_units"] = (int(header["xyzt_units"]) & ~UNIT_BITS) | MM


def nifti_header(
    source: nibabel.Nifti1Header | None,
    dtype: np.dtype,
    shape: tuple[int, ...],
    matrix: np.ndarray,
    code: int,
) -> Any:
    """The header of a resampled image: a copy of its source's, so that time information and intent are kept.

    Args:
        source: of the image that was resampled; ``None`` if it is not NIfTI.
        dtype: number type of the result.
        shape: of the result.
        matrix: of the result, RAS+ mm.
        code: of its space.
    """
    header: Any = nibabel.Nifti1Header() if source is None else source.copy()
    header.set_data_dtype(np.uint8 if dtype.kind == "b" else dtype)
    header.set_data_shape(shape)
    set_forms(header, matrix, code)
    header.set_slope_inter(1, 0)
    for field in STALE:
        header[field] = 0
    header["magic"] = header.single_magic
    header["vox_offset"] = 0  # nibabel computes it when the header is written
    header.extensions.clear()  # other tools store the source's grid in them
    return header


def mgh_header(dtype: np.dtype, shape: tuple[int, ...], matrix: np.ndarray) -> Any:
    """The header of a result in the MGH format, of a type that holds ``dtype``'s numbers if there is one."""
    name = dtype if dtype.name in MGH_TYPES else MGH_FALLBACK[dtype.kind]
    volume: Any = np.broadcast_to(np.zeros((), name), shape)  # allocates nothing
    return nibabel.MGHImage(volume, matrix).header
