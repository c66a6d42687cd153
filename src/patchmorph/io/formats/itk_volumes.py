"""Volumes that ITK reads and writes: their place in RAS+ mm, their voxels in the order of our axes.

ITK's world is LPS+ mm. Its index counts columns, rows and slices, as our array axes do, and its arrays are
their reverse. A pixel's components, and the dimensions after the third, become further axes.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from patchmorph.errors import PatchMorphError
from patchmorph.io.extras import simpleitk
from patchmorph.io.formats.base import Deferred, Layout, LibraryVolume, unreadable
from patchmorph.io.grids import LPS
from patchmorph.io.quiet import quiet_libraries
from patchmorph.io.stated import unit_mm

TYPES = {
    **{f"{8 * size}-bit signed integer": f"i{size}" for size in (1, 2, 4, 8)},
    **{f"{8 * size}-bit unsigned integer": f"u{size}" for size in (1, 2, 4, 8)},
    **{f"{8 * size}-bit float": f"f{size}" for size in (4, 8)},
}
"""Number types by the names that SimpleITK gives them."""
WORDS = re.compile(r"ITK ERROR: |\S*sitk::ERROR: |\(0x[0-9a-f]+\)")
"""Parts of ITK's messages that tell a user nothing."""


def open_itk(
    path: Path,
    kind: str,
    image_io: str,
    unit: str = "mm",
    check: Callable[[], None] | None = None,
    **attributes: Any,
) -> LibraryVolume:
    """A file as one of ITK's readers opens it, whatever its name is.

    Args:
        path: the file.
        kind: name of the format.
        image_io: ITK's name of the reader.
        unit: of the header's lengths; unknown ones are mm.
        check: what runs before the voxels are read.
        **attributes: of `LibraryVolume`.

    Raises:
        PatchMorphError: a file that ITK cannot read, or voxels that are no plain numbers.
    """
    sitk = simpleitk(f"read the {kind} {path}")

    reader = sitk.ImageFileReader()
    reader.SetImageIO(image_io)
    reader.SetFileName(str(path))
    run(reader.ReadImageInformation, path, kind)
    if not reader.GetSize():
        raise unreadable(path, "it has no axes", kind)
    shape, dtype = _shape(reader), number_type(reader.GetPixelID(), path)
    mm = unit_mm(unit) or 1.0
    notes = () if mm == 1 else (f"{path}: lengths in {unit} were converted to mm",)
    matrix = np.diag([mm, mm, mm, 1]) @ ras_matrix(
        reader.GetSpacing(), reader.GetDirection(), reader.GetOrigin()
    )

    def read() -> np.ndarray:
        if check is not None:
            check()
        return array_of(run(reader.Execute, path, kind))

    defaults = {"kind": kind, "spacing_mm": spacing_of(matrix), "notes": notes}
    return LibraryVolume(path, Deferred(shape, dtype, read), matrix, **(defaults | attributes))


def run(call: Callable[[], Any], path: Path, kind: str) -> Any:
    """What a call of SimpleITK returns.

    Raises:
        PatchMorphError: ITK's error, in one line.
    """
    try:
        with quiet_libraries():
            return call()
    except (RuntimeError, MemoryError) as error:
        lines = [line for line in str(error).splitlines() if "ITK ERROR" in line or "sitk::ERROR" in line]
        reason = WORDS.sub("", (lines or [str(error)])[-1])
        raise unreadable(path, reason, kind) from None


def number_type(pixel_id: int, path: Path) -> np.dtype:
    """The number type of a pixel's components.

    Raises:
        PatchMorphError: complex numbers, labels of ITK's own kind.
    """
    sitk = simpleitk(f"read {path}")

    name = sitk.GetPixelIDValueAsString(pixel_id)
    found = TYPES.get(name.removeprefix("vector of "))
    if found is None:
        raise PatchMorphError(f"image must hold plain numbers, got {name} in {path}")
    return np.dtype(found)


def ras_matrix(spacing: Sequence[float], direction: Sequence[float], origin: Sequence[float]) -> np.ndarray:
    """Voxel to world (RAS+ mm), float64 ``[4, 4]``, of ITK's numbers; of the first three axes."""
    count = min(3, len(spacing))
    matrix, square = np.eye(4), np.reshape(direction, (len(spacing), -1))
    matrix[:count, :count] = square[:count, :count] * np.asarray(spacing)[:count]
    matrix[:count, 3] = origin[:count]
    return LPS @ matrix


def spacing_of(matrix: np.ndarray) -> tuple[float, ...]:
    """Voxel sizes along the array axes, in mm."""
    return tuple(np.linalg.norm(matrix[:3, :3], axis=0).tolist())


def array_of(image: Any) -> np.ndarray:
    """The voxels of a SimpleITK image ``[X, Y, Z, …, components]``."""
    sitk = simpleitk()

    array = sitk.GetArrayFromImage(image)
    dimension = image.GetDimension()
    return array.transpose(*reversed(range(dimension)), *range(dimension, array.ndim))


def itk_image(array: np.ndarray, matrix: np.ndarray) -> Any:
    """The SimpleITK image of voxels ``[X, Y, Z]`` or ``[X, Y, Z, components]``.

    Args:
        array: number types that ITK lacks (truth values, half precision) become the next larger one.
        matrix: voxel to world, RAS+ mm.
    """
    sitk = simpleitk()

    array = array.astype({"b1": "u1", "f2": "f4"}.get(array.dtype.str[1:], array.dtype), copy=False)
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0, *range(3, array.ndim)), isVector=array.ndim > 3)
    flipped = LPS @ matrix
    spacing = np.linalg.norm(flipped[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((flipped[:3, :3] / spacing).flatten().tolist())
    image.SetOrigin(flipped[:3, 3].tolist())
    return image


def check_itk(path: Path) -> None:
    """Check, before any work starts, that SimpleITK can write a file.

    Raises:
        PatchMorphError: it is not installed.
    """
    simpleitk(f"write {path}")


def write_itk(frames: Iterable[np.ndarray], layout: Layout, temporary: Path) -> None:
    """Write an image by ITK, packed where it is one file; frames become the components of its pixels.

    Raises:
        PatchMorphError: what ITK cannot write.
    """
    sitk = simpleitk()

    arrays = [frame.astype(layout.dtype, copy=False) for frame in frames]
    array = arrays[0] if len(arrays) == 1 else np.stack(arrays, axis=-1)
    image, packed = itk_image(array, layout.matrix), temporary.suffix in (".nrrd", ".mha")
    write = lambda: sitk.WriteImage(image, str(temporary), packed, 1)  # noqa: E731
    try:
        with quiet_libraries():
            write()
    except RuntimeError as error:
        reason = WORDS.sub("", str(error).strip().splitlines()[-1])
        raise PatchMorphError(f"image must be written whole, got {layout.path}: {reason}") from None


def _shape(reader: Any) -> tuple[int, ...]:
    components = reader.GetNumberOfComponents()
    return (*map(int, reader.GetSize()), *((components,) if components > 1 else ()))
