"""GIFTI surfaces. Frames: see `coordinate_systems`."""

import base64
import copy
import math
import warnings
import zlib
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers.expat import ExpatError

import nibabel
import numpy as np
from jaxtyping import Float
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import data_type_codes

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.io.points.base import RAS, Frame, PointFile
from patchmorph.io.points.coordinate_systems import (
    MAX_DISAGREEMENT_MM,
    distance_mm,
    has_geometry,
    restate,
    stated_frame,
    states,
)
from patchmorph.io.streams import MOST_PER_BYTE

MAX_AXES = 6
"""Dimensions of an array that GIFTI allows."""
POINTSET = "NIFTI_INTENT_POINTSET"
HEADER = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n'
    b'<!DOCTYPE GIFTI SYSTEM "http://www.nitrc.org/frs/download.php/115/gifti.dtd">\n'
)
UNREADABLE = (
    ImageFileError,
    ExpatError,
    ElementTree.ParseError,
    zlib.error,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    OSError,
    Warning,
)


def read_gifti(path: Path) -> PointFile:
    """The point sets of a GIFTI file; all its other content is kept.

    Mapped points of a file with a volume geometry are stored in scanner RAS, and the geometry is set to one
    for which that is surface RAS: the old one is that of the volume that the points came from. Other files
    keep their frame.

    Raises:
        PatchMorphError: no GIFTI, no points, or data in other files.
    """
    root, arrays = _parse(path)
    elements = _point_sets(root)
    if not elements or len(elements) != len(arrays):
        raise PatchMorphError(f"surface must have points, got none in {path}")
    if any(array.ndim != 2 or array.shape[1] != 3 for array in arrays):
        raise PatchMorphError(f"points must have shape (n, 3), got {[a.shape for a in arrays]} in {path}")
    return PointFile(
        np.concatenate(arrays).astype(float),
        partial(_common_frame, elements, path),
        partial(_save, root, [len(array) for array in arrays]),
        RAS if any(map(has_geometry, elements)) else None,
        is_surface=True,
    )


def _parse(path: Path) -> tuple[ElementTree.Element, list[np.ndarray]]:
    """The tree of a file, and the data of those of its point sets that have some."""
    try:
        root = ElementTree.fromstring(path.read_bytes())
        for element in root.iter("DataArray"):
            _check_size(element)
        with warnings.catch_warnings(action="error"):  # of numbers that disagree
            image = nibabel.load(path)
        arrays = image.get_arrays_from_intent(POINTSET)  # pyright: ignore[reportAttributeAccessIssue]
    except UNREADABLE as error:
        raise PatchMorphError(f"surface must be a GIFTI file, got {path}: {one_line(error)}") from None
    if any(element.get("Encoding") == "ExternalFileBinary" for element in root.iter("DataArray")):
        raise PatchMorphError(f"surface must hold its data itself, got data in another file in {path}")
    return root, [array.data for array in arrays if array.data is not None]


def _check_size(element: ElementTree.Element) -> None:
    """Check that an array has the size that it states; packed data are unpacked no further.

    Raises:
        ValueError: it has another one.
    """
    axes = int(element.get("Dimensionality", "0"))
    if axes > MAX_AXES:
        raise ValueError(f"an array has {axes} dimensions")
    shape = [int(element.get(f"Dim{k}", "0")) for k in range(axes)]
    if min(shape, default=0) < 0:
        raise ValueError(f"an array has the shape {shape}")
    if element.get("Encoding") != "GZipBase64Binary":
        return
    kind: Any = data_type_codes.dtype[element.get("DataType")]
    size = math.prod(shape) * kind.itemsize
    packed = base64.b64decode(element.findtext("Data") or "")
    if size > MOST_PER_BYTE * len(packed) or len(zlib.decompressobj().decompress(packed, size + 1)) != size:
        raise ValueError(f"an array of shape {shape} has another number of values")


def _point_sets(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [element for element in root.iter("DataArray") if element.get("Intent") == POINTSET]


def _common_frame(elements: list[ElementTree.Element], path: Path) -> Frame:
    frames = [stated_frame(element, path) for element in elements]
    if any(distance_mm(frame.to_world, frames[0].to_world) > MAX_DISAGREEMENT_MM for frame in frames):
        raise PatchMorphError(f"point sets must share their frame (else --frame), got several in {path}")
    return frames[0]


def _save(
    root: ElementTree.Element,
    counts: list[int],
    path: Path,
    points: Float[np.ndarray, "n 3"],
    source: Frame,
    target: Frame,
) -> None:
    root = copy.deepcopy(root)
    parts = np.split(points, np.cumsum(counts)[:-1])
    for element, part in zip(_point_sets(root), parts, strict=True):
        _write_data(element, part)
        if has_geometry(element) or not states(element, target, path):
            restate(element, source, target, path)
    path.write_bytes(HEADER + ElementTree.tostring(root, encoding="utf-8"))


def _write_data(element: ElementTree.Element, points: Float[np.ndarray, "n 3"]) -> None:
    """Set the data, in the precision and order that the file has, compressed."""
    kind = "f8" if element.get("DataType") == "NIFTI_TYPE_FLOAT64" else "f4"
    order = "F" if element.get("ArrayIndexingOrder") == "ColumnMajorOrder" else "C"
    element.set("DataType", "NIFTI_TYPE_FLOAT64" if kind == "f8" else "NIFTI_TYPE_FLOAT32")
    element.set("Encoding", "GZipBase64Binary")
    element.set("Endian", "LittleEndian")
    data = element.find("Data")
    assert data is not None, "its data were read"
    data.text = base64.b64encode(zlib.compress(points.astype(f"<{kind}").tobytes(order))).decode()
