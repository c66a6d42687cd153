"""Images as the commands take them: grids, targets, and notes on how files were read."""

from pathlib import Path

from patchmorph.cli.app import console
from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import check_folder
from patchmorph.io.grids import GridPair
from patchmorph.io.images import Reference, check_ending, load_reference
from patchmorph.io.placement import Placement


def targets_of(images: list[Path], output: Path) -> list[Path]:
    """The file that each image is written to: ``output``, or one of its name in that folder."""
    if len(images) == 1:
        check_ending(output)
        return [output]
    check_folder(output)
    targets = [output / image.name for image in images]
    if len(set(targets)) < len(targets):
        raise PatchMorphError(f"images must have different names, got {', '.join(map(str, images))}")
    return targets


def read_reference(path: Path, assume_orientation: str | None) -> Reference:
    """The grid of an image; how its file was read is printed."""
    reference = load_reference(path, assume_orientation)
    print_notes(reference)
    return reference


def print_notes(read: Reference | Placement) -> None:
    """Print how a file was read, and a warning for each assumption."""
    for doubt in read.doubts:
        console.print(f"warning: {doubt}")
    for note in read.notes:
        console.print(note)


def read_pair(reference: Path | None, moving: Path | None, assume_orientation: str | None) -> GridPair:
    """The grids of the images that were given; how their files were read is printed."""
    fixed, other = (
        None if path is None else read_reference(path, assume_orientation).grid
        for path in (reference, moving)
    )
    return GridPair(fixed, other)
