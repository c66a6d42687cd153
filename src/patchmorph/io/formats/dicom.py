"""DICOM series: a folder of slices, or one multi-frame file, read by ITK through GDCM.

The matrix is made from the position and orientation of the slices (DICOM PS3.3, C.7.6.2.1.1: patient
coordinates are LPS+ mm), so that a tilted gantry keeps its shear; ITK supplies the voxels. A folder with
several series is read as ``FOLDER#SERIES_UID``.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patchmorph.errors import PatchMorphError
from patchmorph.io.extras import simpleitk
from patchmorph.io.formats.base import Deferred, ImageFormat, LibraryVolume
from patchmorph.io.formats.itk_volumes import array_of, number_type, open_itk, run, spacing_of
from patchmorph.io.grids import LPS

KIND, READER = "DICOM image", "GDCMImageIO"
MAGIC, MAGIC_AT = b"DICM", 128
POSITION, ORIENTATION, SPACING = "0020|0032", "0020|0037", "0028|0030"
SLOPE, INTERCEPT = "0028|1053", "0028|1052"
DESCRIPTION = "0008|103e"
MAX_LISTED = 12
"""Series of a folder that a message lists."""
MAX_UNEVEN = 0.05
"""Distance of a slice from its place between even gaps, as a part of a gap: a missing slice is off by 0.5."""
MAX_COSINE_ERROR = 1e-3
"""Difference between the direction cosines of two slices of one volume: headers round them."""


class Slice(NamedTuple):
    """One file of a series.

    Attributes:
        path: of the file.
        size: columns, rows.
        position: of the centre of the first pixel, LPS+ mm ``[3]``.
        axes: unit vectors along a row and along a column, LPS+ ``[2, 3]``.
        spacing: between rows and between columns, mm ``[2]``.
        scale: slope and intercept of the values, as text.
        pixel: ITK's number of the pixel type.
    """

    path: Path
    size: tuple[int, int]
    position: np.ndarray
    axes: np.ndarray
    spacing: np.ndarray
    scale: tuple[str, str]
    pixel: int


def split_series(path: Path) -> tuple[Path, str | None]:
    """The folder and the series of ``FOLDER#SERIES_UID``; a path that exists is one as it is."""
    folder, hash_, uid = str(path).rpartition("#")
    return (Path(folder), uid) if hash_ and not path.exists() and Path(folder).is_dir() else (path, None)


def open_dicom(path: Path) -> LibraryVolume:
    """Open a series of slices, or one file of many frames.

    Raises:
        PatchMorphError: no series or several, or slices that are no volume.
    """
    if path.is_file():
        return _open_frames(path)
    slices = _in_order(_slices(path), path)
    first, count = slices[0], len(slices)
    step = (slices[-1].position - first.position) / (count - 1)
    matrix = np.eye(4)
    matrix[:3] = np.column_stack([*(first.axes * first.spacing[::-1, None]), step, first.position])
    matrix = LPS @ matrix
    even = len({item.scale for item in slices}) == 1
    dtype = number_type(first.pixel, path) if even else np.dtype(np.float32)
    read = lambda: _read(slices, path, even)  # noqa: E731
    voxels = Deferred((*first.size, count), dtype, read)
    return LibraryVolume(path, voxels, matrix, kind=KIND, spacing_mm=spacing_of(matrix))


def _open_frames(path: Path) -> LibraryVolume:
    volume = open_itk(path, KIND, READER)
    if volume.shape[2:3] in ((), (1,)):
        raise PatchMorphError(f"DICOM image must be the folder of a series, got one slice of it: {path}")
    volume.doubts = (f"{path}: the frames were taken as one stack; their positions were not compared",)
    return volume


def _slices(path: Path) -> list[Slice]:
    """The slices of the one series in a folder, or of the named one."""
    sitk = simpleitk(f"read the DICOM series {path}")

    folder, wanted = split_series(path)
    reader = sitk.ImageSeriesReader()
    found = run(lambda: reader.GetGDCMSeriesIDs(str(folder)), path, KIND)
    if not found:
        raise PatchMorphError(
            f"image must be an existing file, or a folder of TIFF files or of a DICOM series, got {path}"
        )
    if wanted is None and len(found) == 1:
        wanted = found[0]
    names = {uid: reader.GetGDCMSeriesFileNames(str(folder), uid) for uid in found}
    if wanted not in names:
        shown = list(names.items())[:MAX_LISTED]
        listed = "; ".join(f"{folder}#{uid} ({_describe(files)})" for uid, files in shown)
        listed += f"; {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
        raise PatchMorphError(f"image must be one DICOM series, got {path}; series: {listed}")
    if len(names[wanted]) < 2:
        raise PatchMorphError(f"DICOM series must have two slices or more, got one in {path}")
    return [_slice(Path(name)) for name in names[wanted]]


def _describe(files: tuple[str, ...]) -> str:
    description = _header(Path(files[0])).get(DESCRIPTION, "")
    return f"{description}, {len(files)} files" if description else f"{len(files)} files"


def _header(path: Path) -> dict[str, str]:
    reader = _information(path)
    return {key: reader.GetMetaData(key).strip() for key in reader.GetMetaDataKeys()}


def _information(path: Path) -> Any:
    sitk = simpleitk()

    reader = sitk.ImageFileReader()
    reader.SetImageIO(READER)
    reader.SetFileName(str(path))
    run(reader.ReadImageInformation, path, KIND)
    return reader


def _slice(path: Path) -> Slice:
    reader = _information(path)
    header = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
    columns, rows, *others = reader.GetSize()
    if others not in ([], [1]):
        raise PatchMorphError(f"DICOM series must be of slices, got a file of {others[0]} frames: {path}")
    try:
        position, cosines, spacing = (
            np.array([float(number) for number in header[key].split("\\")])
            for key in (POSITION, ORIENTATION, SPACING)
        )
        axes = cosines.reshape(2, 3)
        if position.shape != (3,) or spacing.shape != (2,):
            raise ValueError("a wrong count of numbers")
    except (KeyError, ValueError):
        raise PatchMorphError(
            f"DICOM slices must state their position and pixel spacing, got {path}"
        ) from None
    scale = header.get(SLOPE, "1"), header.get(INTERCEPT, "0")
    return Slice(path, (columns, rows), position, axes, spacing, scale, reader.GetPixelID())


def _in_order(slices: list[Slice], path: Path) -> list[Slice]:
    """The slices along their normal.

    Raises:
        PatchMorphError: they differ in size or orientation, lie at one place, or are unevenly spaced.
    """
    first = slices[0]
    for other in slices[1:]:
        if other.size != first.size or not np.allclose(other.spacing, first.spacing, rtol=1e-4):
            raise PatchMorphError(f"DICOM slices must be of one size, got others in {other.path}")
        if not np.allclose(other.axes, first.axes, atol=MAX_COSINE_ERROR):
            raise PatchMorphError(f"DICOM slices must be parallel, got another orientation in {other.path}")
    heights = np.array([np.cross(*first.axes) @ item.position for item in slices])
    order = np.argsort(heights, kind="stable")
    slices, gaps = [slices[k] for k in order], np.diff(heights[order])
    gap = gaps.mean()
    if gaps.min() <= MAX_UNEVEN * gap:
        raise PatchMorphError(
            f"DICOM slices must lie at different places, got several at one place (a time series, or several "
            f"echoes) in {path}"
        )
    positions = np.stack([item.position for item in slices])
    even = positions[0] + np.linspace(0, 1, len(slices))[:, None] * (positions[-1] - positions[0])
    if np.linalg.norm(positions - even, axis=1).max() > MAX_UNEVEN * gap:
        got = f"{gaps.min():.2f} to {gaps.max():.2f} mm"
        raise PatchMorphError(f"DICOM slices must be evenly spaced, got gaps of {got} in {path}")
    return slices


def _read(slices: list[Slice], path: Path, even: bool) -> np.ndarray:
    """The voxels; as float32 where the scale of the values differs between slices."""
    sitk = simpleitk()

    reader = sitk.ImageSeriesReader()
    reader.SetImageIO(READER)
    reader.SetFileNames([str(item.path) for item in slices])
    if not even:
        reader.SetOutputPixelType(sitk.sitkFloat32)
    return array_of(run(reader.Execute, path, KIND))


def _recognises(path: Path, start: bytes) -> bool:
    if not path.is_dir():
        return split_series(path)[1] is not None or start[MAGIC_AT:].startswith(MAGIC)
    return True


DICOM = ImageFormat("DICOM", (), _recognises, open_dicom)
