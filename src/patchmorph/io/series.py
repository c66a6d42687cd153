"""Image files of one or many 3D frames, resampled through a transform one frame at a time."""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError, SpatialImage

from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import whole_file
from patchmorph.io.grids import matrix_of
from patchmorph.io.images import UNREADABLE, check_ending, image_from, open_volume, unreadable
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.sampling import Interpolation
from patchmorph.transforms.base import Transform
from patchmorph.transforms.blocks import MappedBlock, mapped_blocks
from patchmorph.transforms.resample import resample_at

KEPT_POINTS = 2**26
"""Most mapped points kept between frames (0.8 GB); a larger grid is mapped again for each frame."""
MGH = (".mgz", ".mgh")
MGH_TYPES = ("uint8", "int16", "int32", "float32")
MGH_FALLBACK = {"f": "float32", "i": "int32", "u": "int32", "b": "uint8"}
"""MGH type for each numpy kind, where MGH lacks the type itself."""


class Frames:
    """An image file as a sequence of 3D frames (one for a 3D image), each read on access.

    Attributes:
        path: of the file.
        dtype: number type, kept in results; float32 where the header rescales the values.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.volume: SpatialImage = open_volume(self.path)
        if len(self.volume.shape) < 3 or min(self.volume.shape) < 1:
            raise PatchMorphError(
                f"image must have three or more dimensions, got {self.volume.shape} in {path}"
            )
        dtype = np.dtype(self.volume.get_data_dtype()).newbyteorder("=")
        if dtype.kind not in "iufb":
            raise PatchMorphError(f"image must hold plain numbers, got {dtype} in {path}")
        slope = getattr(self.volume.dataobj, "slope", 1), getattr(self.volume.dataobj, "inter", 0)
        self.dtype = dtype if slope in ((1, 0), (None, None)) else np.dtype(np.float32)

    @property
    def further(self) -> tuple[int, ...]:
        """Sizes of the dimensions after the third."""
        return tuple(int(size) for size in self.volume.shape[3:])

    def __iter__(self) -> Iterator[np.ndarray]:
        """The frames ``[X, Y, Z]`` in the order of the file."""
        for index in np.ndindex(*self.further[::-1]):
            try:
                frame = np.asarray(self.volume.dataobj[(..., *index[::-1])])
            except UNREADABLE as error:
                raise unreadable(self.path, error) from None
            yield frame


def warp_files(
    paths: Iterable[tuple[Path, Path]],
    transform: Transform,
    grid: Grid,
    interpolation: Interpolation = "linear",
    background: int | float = 0,
) -> None:
    """Resample each source file through ``transform`` onto ``grid`` and write its target, NIfTI or MGZ.

    Frames are processed one by one, so memory does not grow with their number. The number type and the time
    information in the header are kept.

    Args:
        paths: sources with their targets.
        transform: ``grid``'s world → the images' world, RAS+ mm.
        grid: of the results.
        interpolation: see `patchmorph.transforms.resample.resample`.
        background: value outside the images.

    Raises:
        PatchMorphError: an image that cannot be read, a target that cannot be written, or a background
            outside the range of the number type.
    """
    series = [(Frames(source), target) for source, target in paths]
    for frames, target in series:
        check_ending(target)
        if not _holds(frames.dtype, background):
            raise PatchMorphError(f"background must be a number of {frames.dtype}, got {background:g}")
    places: Iterable[MappedBlock] | None = None
    many = sum(int(np.prod(frames.further)) for frames, _ in series) > 1
    if many and np.prod(grid.shape) <= KEPT_POINTS:
        places = list(mapped_blocks(transform, grid))
    number = int(background) if _whole(background) else background
    for frames, target in series:
        ids = interpolation in ("nearest", "label")
        images = (image_from(frame, frames.volume, frames.path, ids) for frame in frames)
        results = (
            resample_at(image, places or mapped_blocks(transform, grid), grid, interpolation, number)
            for image in images
        )
        arrays = (_typed(result.data[0, 0].numpy(), frames) for result in results)
        _write_frames(arrays, frames, grid, target)


def _whole(number: int | float) -> bool:
    return math.isfinite(number) and float(number).is_integer()


def _holds(dtype: np.dtype, number: int | float) -> bool:
    if dtype.kind == "f" or not _whole(number):
        return dtype.kind == "f"
    if dtype.kind == "b":
        return number in (0, 1)
    limits = np.iinfo(dtype.name)
    return limits.min <= number <= limits.max


def _typed(array: np.ndarray, source: Frames) -> np.ndarray:
    """The array in the source's number type, which torch may lack; values out of its range are clipped."""
    if source.dtype.kind in "iu" and source.dtype.itemsize < array.dtype.itemsize:
        limits = np.iinfo(source.dtype.name)
        array = array.clip(limits.min, limits.max)
    return array.astype(source.dtype)


def _write_frames(arrays: Iterator[np.ndarray], source: Frames, grid: Grid, path: Path) -> None:
    try:
        header = _mgh_header(source, grid) if path.name.endswith(MGH) else _nifti_header(source, grid)
    except (HeaderDataError, ValueError) as error:
        shape = (*grid.shape, *source.further)
        raise PatchMorphError(f"image must fit its format, got shape {shape} for {path}: {error}") from None
    dtype = header.get_data_dtype()
    with whole_file(path) as temporary, ImageOpener(str(temporary), "wb") as file:
        if isinstance(header, MGHHeader):
            header.writehdr_to(file)
            file.seek(header.get_data_offset())
        else:
            header.write_to(file)
        for array in arrays:
            converted = array.astype(dtype)
            if dtype.kind in "iu" and not np.array_equal(converted, array):
                raise PatchMorphError(f"image must hold numbers of {dtype}, got larger ones for {path}")
            file.write(converted.tobytes(order="F"))
        if isinstance(header, MGHHeader):
            header.writeftr_to(file)


def _nifti_header(source: Frames, grid: Grid) -> Any:
    """A copy of the source's header if it is NIfTI, so that its time information is kept."""
    original = source.volume.header if isinstance(source.volume, nibabel.Nifti1Image) else None
    header: Any = nibabel.Nifti1Header() if original is None else original.copy()
    header.set_data_dtype(np.uint8 if source.dtype.kind == "b" else source.dtype)
    header.set_data_shape((*grid.shape, *source.further))
    for set_form in (header.set_sform, header.set_qform):
        set_form(matrix_of(grid), code=1)
    header.set_slope_inter(1, 0)
    header.set_xyzt_units("mm", header.get_xyzt_units()[1])
    header["cal_min"] = header["cal_max"] = 0
    header["magic"] = header.single_magic
    header["vox_offset"] = 0  # nibabel computes it when the header is written
    header.extensions.clear()  # other tools store the source's grid in them
    return header


def _mgh_header(source: Frames, grid: Grid) -> Any:
    dtype = source.dtype if source.dtype.name in MGH_TYPES else MGH_FALLBACK[source.dtype.kind]
    volume: Any = np.broadcast_to(np.zeros((), dtype), (*grid.shape, *source.further))  # allocates nothing
    return nibabel.MGHImage(volume, matrix_of(grid)).header
