"""Commands that apply, combine, convert and analyse transforms."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from patchmorph.cli.app import app, console, print_table
from patchmorph.cli.checks import determinant_figures, folding_figures, print_misses
from patchmorph.cli.groups import with_options
from patchmorph.cli.images import (
    IMAGE_FORMATS,
    BlockScheduler,
    SideOptions,
    print_notes,
    print_written,
    read_pair,
    read_reference,
    spreading,
    targets_of,
)
from patchmorph.cli.transform_files import (
    EachFrom,
    From,
    Inverse,
    NextTransforms,
    To,
    TransformPath,
    load_chain,
    load_one,
    save,
)
from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.atomic import check_outputs
from patchmorph.io.block_writer import Spread
from patchmorph.io.blockwise import ENDING, folding_by_blocks, jacobian_blocks, missed_blocks, written_figures
from patchmorph.io.chunked import open_frames
from patchmorph.io.components import REORIENT
from patchmorph.io.frames import Frames
from patchmorph.io.grids import GridPair
from patchmorph.io.images import check_ending, save_image, space_code
from patchmorph.io.resumable import fingerprint
from patchmorph.io.series import CHOICES
from patchmorph.io.templates import image_path
from patchmorph.io.transforms.formats import load_transform
from patchmorph.io.transforms.registry import format_of
from patchmorph.io.warping import warp_images
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import Transform
from patchmorph.transforms.checks import (
    MAX_ERROR_MM,
    InverseCheck,
    JacobianCheck,
    finest_support,
    mean_distance_mm,
    miss_blocks,
)
from patchmorph.transforms.inverse import round_trip_mm
from patchmorph.transforms.jacobian import DIFFERENCES, log_determinant

Output = Annotated[
    Path, typer.Option("--output", "-o", help="Transform file; its ending determines the format.")
]
ReferenceOption = Annotated[Path | None, typer.Option(help="Fixed image: its grid, for files that need it.")]
Moving = Annotated[Path | None, typer.Option(help="Moving image: its grid, for files that need it.")]


@app.command()
@with_options
def apply(
    transform: TransformPath,
    images: Annotated[list[Path], typer.Argument(help="Images in the moving space, of three or more axes.")],
    reference: Annotated[Path, typer.Option(help="Image whose grid the result is on.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help=f"Result ({IMAGE_FORMATS}); a folder for several images.")
    ],
    interpolation: Annotated[
        str,
        typer.Option(
            help="linear, cubic (B-spline), nearest, label (most trilinear weight), or auto: label for label "
            "maps, else linear."
        ),
    ] = "auto",
    inverse: Inverse = False,
    then: NextTransforms = None,
    spacing: Annotated[
        float | None, typer.Option(help="Voxel size of the result in mm, instead of the reference's.")
    ] = None,
    background: Annotated[float, typer.Option(help="Value outside the images.")] = 0.0,
    reorient: Annotated[
        str | None,
        typer.Option(
            help="Vectors and tensors: turn them with the map, components along ras or lps axes; or none."
        ),
    ] = None,
    of: EachFrom = None,
    scheduler: BlockScheduler = None,
    *,
    options: SideOptions,
) -> None:
    """Resample images through a transform onto a reference grid, each frame interpolated once."""
    if interpolation not in CHOICES:
        raise PatchMorphError(f"interpolation must be one of {', '.join(CHOICES)}, got {interpolation}")
    if reorient not in (None, *REORIENT):
        raise PatchMorphError(f"reorient must be one of {', '.join(REORIENT)}, got {reorient}")
    if spacing is not None and not 0 < spacing < math.inf:
        raise PatchMorphError(f"spacing must be above 0 mm and finite, got {spacing:g}")
    images = [image_path(image) for image in images]
    targets = targets_of(images, output)
    transforms = [transform, *(then or [])]
    check_outputs(targets, [*images, reference, *transforms])
    sides = options.sides()
    place = read_reference(reference, sides.fixed)
    series = [Frames(image, sides.moving) for image in images]
    for frames in series:
        print_notes(frames.place)
    pair = GridPair(place.grid, series[0].grid)
    chain = load_chain(transforms, of, inverse, pair.swapped() if inverse else pair)
    grid = place.grid if spacing is None else place.grid.resampled(spacing)
    job = {"transforms": [fingerprint(path) for path in transforms], "inverse": inverse, "from": of}
    paths = zip(series, targets, strict=True)
    how = (interpolation, background, place.code, reorient, sides.moving, job)
    with spreading(scheduler, targets) as spread:
        lines = warp_images(paths, chain, grid, *how, spread)
    for line in lines:
        console.print(line)
    for target in targets:
        print_written(target)


@app.command()
@with_options
def compose(
    transforms: Annotated[
        list[Path], typer.Argument(help="In the order in which they map points of the first fixed image.")
    ],
    output: Output,
    reference: ReferenceOption = None,
    moving: Moving = None,
    to: To = None,
    of: EachFrom = None,
    *,
    options: SideOptions,
) -> None:
    """Compose several transforms into one."""
    check_outputs([output], [*transforms, reference, moving])
    sides = options.sides()
    pair = read_pair(reference, moving, sides)
    save(load_chain(transforms, of, False, pair), output, to, pair)


@app.command()
@with_options
def invert(
    transform: TransformPath,
    output: Output,
    reference: ReferenceOption = None,
    moving: Moving = None,
    to: To = None,
    of: From = None,
    missed: Annotated[
        Path | None,
        typer.Option(help="Image of the inverse's round-trip error in mm, on the moving image's grid."),
    ] = None,
    scheduler: BlockScheduler = None,
    *,
    options: SideOptions,
) -> None:
    """Write the inverse: exact for velocity fields, to 0.0002 mm at each point for displacement fields."""
    images = [] if missed is None else [missed]
    check_outputs([output, *images], [transform, reference, moving])
    if scheduler is not None and missed is None:
        raise PatchMorphError(f"--missed must be a file that ends in {ENDING} for --scheduler, got none")
    spread_by = spreading(scheduler, images)
    sides = options.sides()
    pair = read_pair(reference, moving, sides)
    form = format_of(output, to, writing=True)
    if missed is not None:
        check_ending(missed)
        pair.need_moving("option --missed")
    forward = load_one(transform, of, pair)
    inverse = forward.inverse()
    grid = pair.moving or finest_support(forward)
    if missed is not None:
        assert grid is not None
        assert moving is not None
        job = {"transform": fingerprint(transform), "from": of}
        with spread_by as spread:
            misses = _missed(forward, inverse, grid, missed, space_code(moving), job, spread)
        print_misses(InverseCheck.of(misses))
        print_written(missed)
    elif grid is not None:
        print_misses(InverseCheck.of(miss_blocks(forward, inverse, grid)))
    save(inverse, output, to, pair.swapped())
    if grid is not None:
        off = mean_distance_mm(load_transform(output, form.tool, pair.swapped()), inverse, grid)
        if off > MAX_ERROR_MM:
            console.print(
                f"in this format the inverse is {off:.3f} mm off on average; .safetensors keeps it exact"
            )


def _missed(
    forward: Transform,
    inverse: Transform,
    grid: Grid,
    path: Path,
    code: int,
    job: dict[str, Any],
    spread: Spread,
) -> Iterator[Tensor]:
    """Write the image of the round-trip error, and return its blocks."""
    if path.name.endswith(ENDING):
        missed_blocks(forward, inverse, grid, path, job, spread)
        return (values for image in open_frames(path) for _, values in image.blocks())
    miss = round_trip_mm(forward, inverse, grid)
    save_image(Image(miss[None, None], grid), path, code)
    return iter([miss])


@app.command()
@with_options
def convert(
    transform: TransformPath,
    output: Output,
    reference: ReferenceOption = None,
    moving: Moving = None,
    to: To = None,
    of: From = None,
    *,
    options: SideOptions,
) -> None:
    """Write a transform as another tool's file.

    Endings: .safetensors (ours); .h5, .tfm, .txt, .mat, .nii.gz (ITK, ANTs, Slicer); .mat, .nii.gz with --to
    fsl or greedy; .txt with --to mrtrix or niftyreg; .lta, .mgz (FreeSurfer); .aff12.1D (AFNI); .x5; .zarr.
    """
    check_outputs([output], [transform, reference, moving])
    sides = options.sides()
    pair = read_pair(reference, moving, sides)
    format_of(output, to, writing=True)
    save(load_one(transform, of, pair), output, to, pair)


@app.command()
@with_options
def jacobian(
    transform: TransformPath,
    reference: Annotated[Path, typer.Option(help="Image whose grid the result is on.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help=f"Image of the determinant ({IMAGE_FORMATS}).")
    ],
    log: Annotated[bool, typer.Option("--log", help="Write its natural logarithm instead.")] = False,
    differences: Annotated[str, typer.Option(help="Finite differences: forward or central.")] = "forward",
    inverse: Inverse = False,
    moving: Moving = None,
    of: From = None,
    scheduler: BlockScheduler = None,
    *,
    options: SideOptions,
) -> None:
    """Write the Jacobian determinant of a transform, and report where the transform folds."""
    if differences not in DIFFERENCES:
        raise PatchMorphError(f"differences must be {' or '.join(DIFFERENCES)}, got {differences}")
    check_ending(output)
    check_outputs([output], [transform, reference, moving])
    spread_by = spreading(scheduler, [output])
    sides = options.sides()
    place = read_reference(reference, sides.fixed)
    grid = place.grid
    pair = GridPair(grid, None if moving is None else read_reference(moving, sides.moving).grid)
    chain = load_chain([transform], of and [of], inverse, pair.swapped() if inverse else pair)
    if output.name.endswith(ENDING):
        job = {"transform": fingerprint(transform), "inverse": inverse, "from": of}
        with spread_by as spread:
            jacobian_blocks(chain, grid, output, differences, log, job, spread)
            folded = folding_by_blocks(chain, grid, spread)
        print_written(output)
        print_table(str(output), written_figures(output) | folding_figures(folded))
        return
    check = JacobianCheck.of(chain, grid)
    if not check.is_mapped:
        raise PatchMorphError(f"{reference} must lie where the transform maps points, got no mapped voxel")
    determinant = check.determinants[differences]
    determinant = log_determinant(determinant) if log else determinant
    save_image(Image(determinant[None, None], grid), output, place.code)
    print_written(output)
    print_table(str(output), determinant_figures(check, differences))
