"""The command that maps points and surfaces."""

from pathlib import Path
from typing import Annotated

import typer

from patchmorph.cli.app import app, console
from patchmorph.cli.images import LETTERS, SIZES, read_reference, spacing_of
from patchmorph.cli.transform_files import EachFrom, Inverse, NextTransforms, TransformPath, load_chain
from patchmorph.io.atomic import check_outputs
from patchmorph.io.formats.registry import is_image
from patchmorph.io.grids import GridPair
from patchmorph.io.points import Frame, map_points
from patchmorph.io.stated import Stated


@app.command()
def apply_points(
    transform: TransformPath,
    points: Annotated[
        Path,
        typer.Argument(
            help="Table (.csv, .tsv), markups of 3D Slicer (.fcsv, .mrk.json), or surface (.gii, .vtk, "
            ".vtp, .ply, FreeSurfer's own)."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Result, in the same file format.")],
    inverse: Inverse = False,
    then: NextTransforms = None,
    frame: Annotated[
        str | None,
        typer.Option(
            help="Frame of the points: ras, lps, or an image (its voxels; columns, rows, slices "
            "of a TIFF); by default the one POINTS states."
        ),
    ] = None,
    output_frame: Annotated[
        str | None, typer.Option(help="Frame of the result; by default the same.")
    ] = None,
    frame_spacing: Annotated[
        str | None, typer.Option(help=f"Voxel size of the frame's image if it states none, {SIZES}")
    ] = None,
    frame_orientation: Annotated[
        str | None, typer.Option(help=f"Orientation of the frame's image if it states none: {LETTERS}")
    ] = None,
    of: EachFrom = None,
) -> None:
    """Map points from the fixed to the moving image; with --inverse from the moving to the fixed image."""
    transforms = [transform, *(then or [])]
    images = [Path(name) for name in (frame, output_frame) if name is not None]
    check_outputs([output], [*transforms, points, *images])
    stated = Stated(None, frame_orientation, spacing_of(frame_spacing))
    for image in filter(is_image, images):
        read_reference(image, stated)  # a damaged file is refused, and a doubtful one is printed
    frames = [None if name is None else Frame.named(name, stated) for name in (frame, output_frame)]
    chain = load_chain(transforms, of, inverse, GridPair())
    console.print(f"wrote {output}: {map_points(points, output, chain, *frames)}")
