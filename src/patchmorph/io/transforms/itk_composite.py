"""ITK's composite transforms as HDF5 files, compressed.

The layout is that of ITK's ``HDF5TransformIO``: a group for each transform with its class, fixed parameters
and parameters; the first is the composite itself. Displacements are rounded to `STEP_MM` and deflated as
float32, which HDF5 undoes when ITK reads them; that takes a fifth of the space of ITK's own files.
"""

import functools
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from patchmorph.io.atomic import whole_file
from patchmorph.io.grids import LPS, check_square, matrix_of
from patchmorph.io.hdf5 import new_hdf5, open_hdf5
from patchmorph.io.transforms.itk_records import Record
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.workers import in_order

FLIP = LPS[:3, :3]
"""RAS+ to LPS+ for vectors, and back."""
STEP_MM = 2.0**-12
"""Unit of stored displacements, in mm: their last bits do not compress."""
CHUNK = 2**17
"""Numbers that are compressed at a time."""
TEXT = h5py.string_dtype("ascii")
PREFIXES = ("Transform", "Tranform")
"""Of the names of data sets; the latter in files of ITK before version 5."""


def write_parts(parts: tuple[AffineTransform | DisplacementField, ...], path: Path) -> None:
    """Write the composite of ``parts``, the outermost first; ITK applies the last one first, too.

    Raises:
        PatchMorphError: a sheared grid, or a path that cannot be written.
    """
    for part in parts:
        if isinstance(part, DisplacementField):
            check_square(part.grid, f"displacement field of {path}")
    with whole_file(path) as temporary, _writing(temporary) as file:
        group = file.create_group("TransformGroup")
        _write_text(group.create_group("0"), "CompositeTransform_double_3_3")
        for index, part in enumerate(parts, 1):
            own = group.create_group(str(index))
            if isinstance(part, DisplacementField):
                _write_field(own, part)
            else:
                _write_affine(own, part)


def read_records(path: Path) -> list[Record]:
    """Read the transforms of a file, a composite's own entry first.

    Raises:
        PatchMorphError: data in other files, or numbers that the file cannot hold.
        OSError, LookupError, ValueError: no file of this kind.
    """
    with open_hdf5(path) as file:
        group: Any = file["TransformGroup"]
        return [_read(group[name]) for name in sorted(group, key=int)]


def _read(group: Any) -> Record:
    kind = np.ravel(group["TransformType"][()])[0]
    numbers = (_numbers(group, name) for name in ("Parameters", "FixedParameters"))
    return Record(kind.decode("latin-1") if isinstance(kind, bytes) else str(kind), *numbers)


def _numbers(group: Any, name: str) -> np.ndarray:
    """A list of numbers; an empty one if the group has none, as that of the composite."""
    data = next((group[prefix + name] for prefix in PREFIXES if prefix + name in group), None)
    if data is None:
        return np.zeros(0)
    return np.asarray(data[()], data.dtype.newbyteorder("=")).ravel()


@contextmanager
def _writing(path: Path) -> Iterator[h5py.File]:
    """A new file; what HDF5 raises while it is written becomes an ``OSError``."""
    try:
        with new_hdf5(path) as file:
            yield file
    except RuntimeError as error:
        raise OSError(str(error)) from None


def _write_text(group: h5py.Group, name: str) -> None:
    group.create_dataset("TransformType", data=[name], dtype=TEXT)


def _write_affine(group: h5py.Group, part: AffineTransform) -> None:
    """The matrix row by row and the translation; the centre is the origin."""
    matrix = part.matrix[0].cpu().numpy()
    linear, translation = FLIP @ matrix[:3, :3] @ FLIP, FLIP @ matrix[:3, 3]
    _write_text(group, "AffineTransform_double_3_3")
    group["TransformParameters"] = np.concatenate([linear.ravel(), translation])
    group["TransformFixedParameters"] = np.zeros(3)


def _write_field(group: h5py.Group, field: DisplacementField) -> None:
    """Displacements with x fastest; size, origin, spacing and direction of the grid."""
    matrix = matrix_of(field.grid)
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    direction, origin = FLIP @ (matrix[:3, :3] / spacing), FLIP @ matrix[:3, 3]
    vectors = field.displacement[0].permute(3, 2, 1, 0).cpu().float()
    steps = (vectors * (torch.tensor(np.diag(FLIP)).float() / STEP_MM)).round_()
    _write_text(group, "DisplacementFieldTransform_double_3_3")
    group["TransformFixedParameters"] = np.concatenate(
        [np.array(field.grid.shape, float), origin, spacing, direction.ravel()]
    )
    _write_deflated(group, "TransformParameters", steps.mul_(STEP_MM).numpy().ravel())


def _write_deflated(group: h5py.Group, name: str, values: np.ndarray) -> None:
    """Write float32 numbers in deflated chunks, several at a time: HDF5 itself would hold up all threads."""
    size = min(CHUNK, values.size)
    data = group.create_dataset(
        name, values.shape, "<f4", chunks=(size,), shuffle=True, compression="gzip", compression_opts=1
    )
    starts = range(0, values.size, CHUNK)
    parts = (values[start : start + CHUNK] for start in starts)
    for start, chunk in zip(starts, in_order(functools.partial(_deflated, size), parts), strict=True):
        data.id.write_direct_chunk((start,), chunk)


def _deflated(size: int, values: np.ndarray) -> bytes:
    """A chunk of ``size`` numbers as HDF5's filters store it: first bytes first, then deflated.

    Runs and single bytes only (zlib's ``Z_RLE``) take half of the time, and no more space.
    """
    padded = np.zeros(size, "<f4")
    padded[: len(values)] = values
    deflate = zlib.compressobj(1, strategy=zlib.Z_RLE)
    return deflate.compress(padded.view(np.uint8).reshape(size, -1).T.tobytes()) + deflate.flush()
