"""FreeSurfer's warp volumes (``.mgz``, as ``mri_warp_convert`` writes and ``mri_convert -at`` applies them).

A warp is an MGH volume ``[x, y, z, 3]`` on the fixed ("atlas") grid, whose version number carries an intent.
Tags follow: the geometries of the moving ("image") and the fixed volume, and which of four formats the
numbers are in (FreeSurfer's ``include/warpfield.h``; surfa's ``io/framed.py``). All four are read. The format
written is moving minus fixed RAS in mm, which is the displacement. FreeSurfer's older ``.m3z`` is not
supported; ``mri_warp_convert`` converts it.
"""

import gzip
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np

from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import whole_file
from patchmorph.io.grids import GridPair, check_square, matrix_of
from patchmorph.io.streams import MAX_TAIL, check_rest, most_bytes, open_stream
from patchmorph.io.transforms.freesurfer_lta import volume_center, volume_matrix
from patchmorph.io.transforms.parts import apply_matrix, dense_displacement, displacement_field, voxel_grid
from patchmorph.spatial.grid import Grid, Shape
from patchmorph.transforms.base import Transform

MGH_VERSION = 1
WARP_INTENT = 3
TYPE_BYTES = {0: 1, 1: 4, 3: 4, 4: 2}
"""Bytes of a number by MGH's type: unsigned char, int, float, short."""
HEADER_BYTES, SCAN_BYTES = 284, 20
"""Bytes before and right after the voxels of an MGH volume."""
ABSOLUTE_VOXEL, SHIFT_VOXEL, ABSOLUTE_RAS, SHIFT_RAS = range(4)
GEOMETRY_TAG, TYPE_TAG, LABELS_TAG, FORMAT_TAG, SHEARED_GEOMETRY_TAG = 10, 11, 12, 13, 15
"""The geometry, type and labels tags carry no length."""
GEOMETRY = struct.Struct(">4i15f")
"""Valid flag, shape, spacing, the three axes, centre; a file name follows."""
NAME_BYTES = 512
MAX_OFF_MM = 0.1
"""Distance of the grid in the header from that of the fixed volume: both are rounded to float32."""


def write_mgz_warp(transform: Transform, path: Path, pair: GridPair) -> None:
    """Write the whole map as one field on the fixed grid.

    Raises:
        PatchMorphError: a grid is sheared, or an image was not given.
    """
    fixed, moving = pair.need_fixed(f"FreeSurfer warp {path}"), pair.need_moving(f"FreeSurfer warp {path}")
    for grid in (fixed, moving):
        check_square(grid, f"FreeSurfer warp {path}")
    field = dense_displacement(transform, fixed)
    image = nibabel.MGHImage(field, matrix_of(fixed))  # pyright: ignore[reportArgumentType]
    data = bytearray(image.to_bytes())
    struct.pack_into(">i", data, 0, WARP_INTENT << 8 | MGH_VERSION)
    del data[HEADER_BYTES + field.nbytes + SCAN_BYTES :]
    data += struct.pack(">i", GEOMETRY_TAG) + _geometry(moving) + _geometry(fixed)
    sheared = _geometry(moving, shear=True) + _geometry(fixed, shear=True)
    data += struct.pack(">iq", SHEARED_GEOMETRY_TAG, len(sheared)) + sheared
    data += struct.pack(">iqiif", FORMAT_TAG, 12, SHIFT_RAS, 1, 0.0)
    with whole_file(path) as temporary:
        temporary.write_bytes(gzip.compress(bytes(data), 6, mtime=0))


def read_mgz_warp(path: Path, pair: GridPair) -> Transform:
    """Read a FreeSurfer warp volume in any of its four formats.

    Raises:
        PatchMorphError: not a warp volume, truncated, or larger than its header states.
    """
    data, size = _whole_volume(path)
    struct.pack_into(">i", data, 0, MGH_VERSION)  # nibabel reads plain volumes only
    image: Any = nibabel.MGHImage.from_bytes(bytes(data))
    numbers = np.asarray(image.dataobj, dtype=np.float64)
    kind, moving, fixed = _tags(bytes(data[HEADER_BYTES + size + SCAN_BYTES :]), numbers[..., 0].size)
    if numbers.ndim != 4 or (*fixed.shape, 3) != numbers.shape:
        raise PatchMorphError(
            f"FreeSurfer warp must be 3 numbers a voxel of {fixed.shape}, got shape {numbers.shape} in {path}"
        )
    voxel = voxel_grid(fixed.shape)
    fixed_world = apply_matrix(fixed.matrix, voxel)
    if (off := np.abs(apply_matrix(image.affine, voxel) - fixed_world).max()) > MAX_OFF_MM:
        raise PatchMorphError(f"FreeSurfer warp must have one geometry, got two {off:.3g} mm apart in {path}")
    if kind in (ABSOLUTE_VOXEL, SHIFT_VOXEL):
        moving_voxel = numbers + voxel if kind == SHIFT_VOXEL else numbers
        numbers = apply_matrix(moving.matrix, moving_voxel) - fixed_world
    elif kind == ABSOLUTE_RAS:
        numbers = numbers - fixed_world
    return displacement_field(numbers, fixed.matrix)


def _whole_volume(path: Path) -> tuple[bytearray, int]:
    """The bytes of a warp, unpacked, and how many of them are voxels; none is read that the header excludes.

    Raises:
        PatchMorphError: another volume, sizes that the file cannot hold, or too much after the voxels.
    """
    with open_stream(path) as stream:
        data = bytearray(stream.read(HEADER_BYTES))
        version, *shape, kind = struct.unpack_from(">6i", data)
        if version != WARP_INTENT << 8 | MGH_VERSION or kind not in TYPE_BYTES:
            raise PatchMorphError(f"transform must be a FreeSurfer warp, got another volume in {path}")
        size = math.prod(shape) * TYPE_BYTES[kind]
        limit = most_bytes(path)
        if min(shape) < 1 or (limit is not None and size > limit):
            raise PatchMorphError(f"FreeSurfer warp must be whole, got shape {shape} in {path}")
        data += stream.read(size + MAX_TAIL)
        check_rest(stream, path, HEADER_BYTES + size)
    return data, size


class _Volume(NamedTuple):
    """A volume's shape and its matrix, voxel to world (RAS+ mm)."""

    shape: Shape
    matrix: np.ndarray


def _geometry(grid: Grid, shear: bool = False) -> bytes:
    linear = matrix_of(grid)[:3, :3]
    spacing = np.linalg.norm(linear, axis=0)
    packed = GEOMETRY.pack(1, *grid.shape, *spacing, *(linear / spacing).T.ravel(), *volume_center(grid))
    return packed + (bytes(12) if shear else b"") + bytes(NAME_BYTES)


def _read_geometry(data: bytes, at: int, shear: bool) -> tuple["_Volume", int]:
    valid, *numbers = GEOMETRY.unpack_from(data, at)
    at += GEOMETRY.size
    if shear:
        if max(map(abs, struct.unpack_from(">3f", data, at))) > 1e-4:
            raise ValueError("its geometry is sheared")
        at += 12
    if not valid:
        raise ValueError("its geometry is marked invalid")
    shape, spacing, axes, center = (np.array(numbers[a:b]) for a, b in ((0, 3), (3, 6), (6, 15), (15, 18)))
    matrix = volume_matrix(shape, spacing, axes.reshape(3, 3).T, center)
    x, y, z = shape.astype(int).tolist()
    return _Volume((x, y, z), matrix), at + NAME_BYTES


def _tags(data: bytes, voxels: int) -> tuple[int, "_Volume", "_Volume"]:
    """Format, and the moving and the fixed volume, from the file's tags."""
    kind, geometries, at = None, None, 0
    while at + 4 <= len(data) and (tag := struct.unpack_from(">i", data, at)[0]):
        at += 4
        if tag in (GEOMETRY_TAG, SHEARED_GEOMETRY_TAG):
            shear = tag == SHEARED_GEOMETRY_TAG
            moving, at = _read_geometry(data, at + 8 * shear, shear)
            fixed, at = _read_geometry(data, at, shear)
            geometries = moving, fixed
        elif tag in (TYPE_TAG, LABELS_TAG):
            at += 4 if tag == TYPE_TAG else 4 * voxels
        else:
            if (length := struct.unpack_from(">q", data, at)[0]) < 0:
                raise ValueError(f"its tag {tag} has the length {length}")
            if tag == FORMAT_TAG:
                kind = struct.unpack_from(">i", data, at + 8)[0]
            at += 8 + length
    if geometries is None or kind is None or kind not in range(4):
        raise ValueError(f"it names format {kind} and {'two' if geometries else 'no'} geometries")
    return kind, *geometries
