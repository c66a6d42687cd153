"""The command that measures regions of an atlas in an image."""

from pathlib import Path
from typing import Annotated

import torch
import typer

from patchmorph.cli.app import app, console
from patchmorph.cli.groups import with_options
from patchmorph.cli.images import SideOptions, read_reference
from patchmorph.cli.transform_files import EachFrom, Inverse, load_chain
from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import AbstractVolume
from patchmorph.io.atomic import check_outputs
from patchmorph.io.brainglobe import ANNOTATION, HEMISPHERES, Atlas
from patchmorph.io.chunked import open_image
from patchmorph.io.grids import GridPair, matrix_of
from patchmorph.io.points import Frame
from patchmorph.io.points.base import apply_matrix
from patchmorph.io.points.formats import read_points
from patchmorph.io.region_names import read_region_names
from patchmorph.io.stated import Stated
from patchmorph.io.templates import BRAINGLOBE
from patchmorph.regions import Annotation, halves, measure_regions
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform

MIDDLE = "middle"


@app.command()
@with_options
def regions(
    annotation: Annotated[str, typer.Argument(help=f"Label map of an atlas, or {BRAINGLOBE}ATLAS.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Table (.csv), a row a region.")],
    transform: Annotated[
        list[Path] | None,
        typer.Option(help="From the reference to the atlas; repeatable. [default: they are in one world]"),
    ] = None,
    inverse: Inverse = False,
    reference: Annotated[
        Path | None,
        typer.Option(help="Image in whose voxels regions are measured. [default: the annotation itself]"),
    ] = None,
    cells: Annotated[
        Path | None,
        typer.Option(help="Points in the reference: a file of cellfinder, or as for apply-points."),
    ] = None,
    frame: Annotated[
        str | None,
        typer.Option(
            help="Frame of the cells: ras, lps, or an image (its voxels). [default: what CELLS states, else "
            "voxels of the reference]"
        ),
    ] = None,
    names: Annotated[
        Path | None,
        typer.Option(
            help="Names of regions: structures.csv or .json, a table with id and name, or one of FreeSurfer "
            "or ITK-SNAP. [default: those of a BrainGlobe atlas]"
        ),
    ] = None,
    hemispheres: Annotated[
        str | None,
        typer.Option(
            help=f"Left and right of the annotation: an image (1 left, 2 right), or {MIDDLE}. [default: as a "
            "BrainGlobe atlas states]"
        ),
    ] = None,
    of: EachFrom = None,
    *,
    options: SideOptions,
) -> None:
    """Write the volume of each region of an atlas in an image, and the number of cells in it."""
    if output.suffix != ".csv":
        raise PatchMorphError(f"table must end in .csv, got {output}")
    check_outputs([output], [Path(annotation), *(transform or []), reference, cells, names])
    sides = options.sides()
    atlas = read_annotation(annotation, names, hemispheres, sides.moving)
    grid = atlas.labels.grid if reference is None else read_reference(reference, sides.fixed).grid
    pair = GridPair(grid, atlas.labels.grid)
    chain = AffineTransform.identity()
    if transform:
        chain = load_chain(transform, of, inverse, pair.swapped() if inverse else pair)
    points = None if cells is None else read_cells_world(cells, frame, grid, sides.fixed)
    table = measure_regions(atlas, chain, grid, points)
    table.save(output)
    outside = "" if table.cells is None else f"; {table.cells[0, 0]} cells are in none"
    console.print(f"wrote {output}: {len(atlas.ids())} regions{outside}")


def read_annotation(name: str, names: Path | None, hemispheres: str | None, stated: Stated) -> Annotation:
    """The regions of an atlas, by its name or its files."""
    atlas = Atlas.find(name.removeprefix(BRAINGLOBE)) if name.startswith(BRAINGLOBE) else None
    labels = open_image(Path(name) if atlas is None else atlas.image(ANNOTATION), stated)
    table = atlas.names() if atlas is not None and names is None else names
    found: AbstractVolume | None = None
    if hemispheres == MIDDLE or (atlas is not None and hemispheres is None and atlas.is_symmetric()):
        found = halves(labels.grid)
    elif hemispheres is not None:
        found = open_image(Path(hemispheres), stated)
    elif atlas is not None:
        found = open_image(atlas.image(HEMISPHERES))
    return Annotation(labels, found, {} if table is None else read_region_names(table))


def read_cells_world(path: Path, frame: str | None, grid: Grid, stated: Stated) -> torch.Tensor:
    """Points of a file that are cells, RAS+ mm ``[n, 3]``; voxels of ``grid`` where nothing is stated."""
    file = read_points(path)
    try:
        given = file.frame() if frame is None else Frame.named(frame, stated)
    except PatchMorphError:
        if frame is not None:
            raise
        given = Frame(matrix_of(grid), "voxels of the reference", reason="as of cellfinder")
    chosen = file.points if file.is_cell is None else file.points[file.is_cell]
    console.print(f"{path}: {len(chosen)} of {len(file.points)} points are cells, frame: {given}")
    return torch.from_numpy(apply_matrix(given.to_world, chosen)).float()
