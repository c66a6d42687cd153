"""Image files of one or many frames, resampled through a transform one frame at a time."""

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from patchmorph.errors import PatchMorphError
from patchmorph.io.components import Reorient, check_reorient, turning_axes
from patchmorph.io.formats.base import Layout
from patchmorph.io.frames import Frames
from patchmorph.io.grids import matrix_of
from patchmorph.io.images import check_ending, image_from, write_frames
from patchmorph.io.labels import Choice
from patchmorph.io.numbers import typed
from patchmorph.io.placement import SCANNER
from patchmorph.io.volumes import check_files
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.sampling import INTERPOLATIONS, Interpolation
from patchmorph.transforms.base import Transform
from patchmorph.transforms.blocks import MappedBlock, mapped_blocks
from patchmorph.transforms.reorientation import reoriented
from patchmorph.transforms.resample import resample_at

KEPT_POINTS = 2**26
"""Most mapped points kept between frames (0.8 GB); a larger grid is mapped again for each frame."""
Chosen = Interpolation | Literal["auto"]
"""An interpolation, or the one that fits the image: ``label`` for label maps, else ``linear``."""
CHOICES: tuple[Chosen, ...] = ("auto", *INTERPOLATIONS)


def warp_files(
    paths: Iterable[tuple[Frames | Path, Path]],
    transform: Transform,
    grid: Grid,
    interpolation: Chosen = "linear",
    background: int | float = 0,
    code: int = SCANNER,
    reorient: Reorient | None = None,
) -> list[str]:
    """Resample each source file through ``transform`` onto ``grid`` and write its target, by its ending.

    Frames are processed one by one, so memory does not grow with their number. The number type, the intent
    and the time information in the header are kept.

    Args:
        paths: sources with their targets.
        transform: ``grid``'s world → the images' world, RAS+ mm.
        grid: of the results.
        interpolation: see `patchmorph.transforms.resample.resample`; ``auto``: see `patchmorph.io.labels`.
        background: value outside the images.
        code: NIfTI's code of the grid's space.
        reorient: axes of vectors and tensors (see `patchmorph.io.components`).

    Returns:
        A sentence on each source: how it was resampled, and why.

    Raises:
        PatchMorphError: an image that cannot be read, a target that cannot be written, or a background
            outside the range of the number type.
    """
    series = [(_frames(source), target) for source, target in paths]
    for frames, target in series:
        check_ending(target)
        check_reorient(frames, reorient)
        check_background(frames.dtype, background)
    if len(series) > 1:  # one image is checked when it is read, before its target is in place
        for frames, _ in series:
            check_files(frames.volume)
    places: list[MappedBlock] | None = None
    if sum(len(frames) for frames, _ in series) > 1 and np.prod(grid.shape) <= KEPT_POINTS:
        places = list(mapped_blocks(transform, grid))
    number = as_number(background)
    mapped = lambda: places or mapped_blocks(transform, grid)  # noqa: E731
    said = []
    for frames, target in series:
        choice = _choice(frames, interpolation, reorient)
        warped = _warped(frames, mapped, grid, choice.interpolation, number)
        if axes := turning_axes(frames, reorient):
            warped = _turned(warped, transform, grid, axes)
        shape = (*grid.shape, *frames.further)
        layout = Layout(target, shape, frames.dtype, matrix_of(grid), code, frames.header)
        write_frames((typed(array, frames.dtype) for array in warped), layout)
        said.append(_said(frames, choice, reorient))
    return said


def _frames(source: Frames | Path) -> Frames:
    return source if isinstance(source, Frames) else Frames(source)


def _choice(frames: Frames, interpolation: Chosen, reorient: Reorient | None) -> Choice:
    if interpolation != "auto":
        return Choice(interpolation, "as asked for")
    return frames.choice() if turning_axes(frames, reorient) is None else Choice("linear", "components")


def _said(frames: Frames, choice: Choice, reorient: Reorient | None) -> str:
    said = f"{frames.path}: {choice.interpolation} interpolation ({choice.reason})"
    if turning_axes(frames, reorient) is None:
        return said
    return f"{said}, turned by the map's rotation (finite strain)"


def _warped(
    frames: Frames,
    places: Callable[[], Iterable[MappedBlock]],
    grid: Grid,
    interpolation: Interpolation,
    background: int | float,
) -> Iterator[np.ndarray]:
    exact = interpolation in ("nearest", "label") and frames.dtype == np.float64
    for frame in frames:
        image = image_from(frame, frames.place, frames.path, exact)
        yield resample_at(image, places(), grid, interpolation, background).data[0, 0].numpy()


def _turned(
    components: Iterator[np.ndarray], transform: Transform, grid: Grid, axes: tuple[int, int, int]
) -> Iterator[np.ndarray]:
    """The components of a vector or tensor image, turned by the map's rotation."""
    stacked = torch.from_numpy(np.stack([component.astype(np.float32) for component in components]))[None]
    yield from reoriented(stacked, transform, grid, axes)[0].numpy()


def check_background(dtype: np.dtype, background: int | float) -> None:
    """Check that a number type holds a background.

    Raises:
        PatchMorphError: it does not.
    """
    if not _holds(dtype, background):
        raise PatchMorphError(f"background must be a number of {dtype}, got {background:g}")


def as_number(background: int | float) -> int | float:
    """A background as a whole number if it is one, which no rounding changes."""
    return int(background) if _whole(background) else background


def _whole(number: int | float) -> bool:
    return math.isfinite(number) and float(number).is_integer()


def _holds(dtype: np.dtype, number: int | float) -> bool:
    if dtype.kind == "f" or not _whole(number):
        return dtype.kind == "f"
    if dtype.kind == "b":
        return number in (0, 1)
    limits = np.iinfo(dtype.name)
    return limits.min <= number <= limits.max
