"""Image files resampled through a transform: frame by frame, or block by block into OME-Zarr."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from patchmorph.io.block_writer import FileFrames, Spread, one_by_one
from patchmorph.io.blockwise import ENDING, choice_of, number_type, warp_blocks
from patchmorph.io.chunked import can_be_opened
from patchmorph.io.components import Reorient
from patchmorph.io.formats.chosen import chosen
from patchmorph.io.frames import Frames
from patchmorph.io.labels import Choice
from patchmorph.io.placement import SCANNER
from patchmorph.io.resumable import fingerprint
from patchmorph.io.series import Chosen, as_number, check_background, warp_files
from patchmorph.io.stated import NOTHING, Stated
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import Transform


def warp_images(
    paths: Iterable[tuple[Frames, Path]],
    transform: Transform,
    grid: Grid,
    interpolation: Chosen = "linear",
    background: int | float = 0,
    code: int = SCANNER,
    reorient: Reorient | None = None,
    stated: Stated = NOTHING,
    job: Mapping[str, Any] | None = None,
    spread: Spread = one_by_one,
) -> list[str]:
    """Resample each source file through ``transform`` onto ``grid`` and write its target, by its ending.

    A target of OME-Zarr is written block by block, and so is its source read, if its format allows it.
    A process that was killed is continued by the next one with the same arguments.

    Args:
        paths: see `patchmorph.io.series.warp_files`, as for the next six.
        transform: likewise.
        grid: likewise.
        interpolation: likewise.
        background: likewise.
        code: likewise.
        reorient: likewise.
        stated: what the user states of the sources.
        job: plain data that tell this transform from others.
        spread: where blocks are computed and written (see `patchmorph.io.blockwise.write_blocks`).

    Returns:
        A sentence on each source: how it was resampled, and why.

    Raises:
        PatchMorphError: see `warp_files`, and `patchmorph.io.resumable.resumable`.
    """
    pairs = list(paths)
    blockwise = [
        (frames, target)
        for frames, target in pairs
        if target.name.endswith(ENDING) and reorient is None and can_be_opened(frames.volume)
    ]
    others = [pair for pair in pairs if pair not in blockwise]
    said = warp_files(others, transform, grid, interpolation, background, code, reorient)
    for frames, target in blockwise:
        source = {**(job or {}), "image": fingerprint(frames.path), "stated": repr(stated)}
        path = frames.path if chosen(frames.path).is_url else frames.path.absolute()
        images = FileFrames(path, stated)
        check_background(number_type(images[0]), background)
        choice = choice_of(images[0]) if interpolation == "auto" else Choice(interpolation, "as asked for")
        how = (choice.interpolation, as_number(background), source, spread)
        warp_blocks(images, transform, grid, target, *how)
        said.append(f"{frames.path}: {choice.interpolation} interpolation ({choice.reason}), block by block")
    return said
