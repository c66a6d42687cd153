"""Commands that apply, combine, convert and analyse transforms."""

import math
from pathlib import Path
from typing import Annotated

import typer

from patchmorph.cli.app import AssumeOption, app, console, print_table
from patchmorph.cli.images import (
    IMAGE_FORMATS,
    FixedOrientation,
    FixedSpacing,
    MovingOrientation,
    MovingSpacing,
    Sides,
    print_notes,
    print_written,
    read_pair,
    read_reference,
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
from patchmorph.io.components import REORIENT
from patchmorph.io.frames import Frames
from patchmorph.io.grids import GridPair
from patchmorph.io.images import check_ending, save_image, space_code
from patchmorph.io.series import CHOICES, warp_files
from patchmorph.io.transforms.formats import load_transform
from patchmorph.io.transforms.registry import format_of
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import Transform
from patchmorph.transforms.inverse import round_trip_mm
from patchmorph.transforms.jacobian import DIFFERENCES, folding, jacobian_determinant, log_determinant

Output = Annotated[
    Path, typer.Option("--output", "-o", help="Transform file; its ending determines the format.")
]
ReferenceOption = Annotated[Path | None, typer.Option(help="Fixed image: its grid, for files that need it.")]
Moving = Annotated[Path | None, typer.Option(help="Moving image: its grid, for files that need it.")]
MAX_ERROR_MM = 0.01
"""Largest error of a correct inverse; points above it are reported as failed."""


@app.command()
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
    assume_orientation: AssumeOption = None,
    fixed_spacing: FixedSpacing = None,
    fixed_orientation: FixedOrientation = None,
    moving_spacing: MovingSpacing = None,
    moving_orientation: MovingOrientation = None,
    of: EachFrom = None,
) -> None:
    """Resample images through a transform onto a reference grid, each frame interpolated once."""
    if interpolation not in CHOICES:
        raise PatchMorphError(f"interpolation must be one of {', '.join(CHOICES)}, got {interpolation}")
    if reorient not in (None, *REORIENT):
        raise PatchMorphError(f"reorient must be one of {', '.join(REORIENT)}, got {reorient}")
    if spacing is not None and not 0 < spacing < math.inf:
        raise PatchMorphError(f"spacing must be above 0 mm and finite, got {spacing:g}")
    targets = targets_of(images, output)
    transforms = [transform, *(then or [])]
    check_outputs(targets, [*images, reference, *transforms])
    sides = Sides.of(assume_orientation, fixed_orientation, fixed_spacing, moving_orientation, moving_spacing)
    place = read_reference(reference, sides.fixed)
    series = [Frames(image, sides.moving) for image in images]
    for frames in series:
        print_notes(frames.place)
    pair = GridPair(place.grid, series[0].grid)
    chain = load_chain(transforms, of, inverse, pair.swapped() if inverse else pair)
    grid = place.grid if spacing is None else place.grid.resampled(spacing)
    paths = zip(series, targets, strict=True)
    for line in warp_files(paths, chain, grid, interpolation, background, place.code, reorient):
        console.print(line)
    for target in targets:
        print_written(target)


@app.command()
def compose(
    transforms: Annotated[
        list[Path], typer.Argument(help="In the order in which they map points of the first fixed image.")
    ],
    output: Output,
    reference: ReferenceOption = None,
    moving: Moving = None,
    to: To = None,
    of: EachFrom = None,
    assume_orientation: AssumeOption = None,
    fixed_spacing: FixedSpacing = None,
    fixed_orientation: FixedOrientation = None,
    moving_spacing: MovingSpacing = None,
    moving_orientation: MovingOrientation = None,
) -> None:
    """Compose several transforms into one."""
    check_outputs([output], [*transforms, reference, moving])
    sides = Sides.of(assume_orientation, fixed_orientation, fixed_spacing, moving_orientation, moving_spacing)
    pair = read_pair(reference, moving, sides)
    save(load_chain(transforms, of, False, pair), output, to, pair)


@app.command()
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
    assume_orientation: AssumeOption = None,
    fixed_spacing: FixedSpacing = None,
    fixed_orientation: FixedOrientation = None,
    moving_spacing: MovingSpacing = None,
    moving_orientation: MovingOrientation = None,
) -> None:
    """Write the inverse: exact for velocity fields, to 0.0002 mm at each point for displacement fields."""
    outputs = [output] if missed is None else [output, missed]
    check_outputs(outputs, [transform, reference, moving])
    sides = Sides.of(assume_orientation, fixed_orientation, fixed_spacing, moving_orientation, moving_spacing)
    pair = read_pair(reference, moving, sides)
    form = format_of(output, to, writing=True)
    if missed is not None:
        check_ending(missed)
        pair.need_moving("option --missed")
    forward = load_one(transform, of, pair)
    inverse = forward.inverse()
    grid = pair.moving or _finest(forward)
    if grid is not None:
        miss = round_trip_mm(forward, inverse, grid)
        failed, unmapped = int((miss > MAX_ERROR_MM).sum()), int(miss.isnan().sum())
        console.print(f"inverse misses by over {MAX_ERROR_MM} mm at {failed} of {miss.numel()} points")
        if unmapped:
            console.print(f"{unmapped} of {miss.numel()} points are not mapped")
        if missed is not None:
            assert moving is not None
            save_image(Image(miss[None, None], grid), missed, space_code(moving))
            print_written(missed)
    save(inverse, output, to, pair.swapped())
    if grid is not None:
        written = load_transform(output, form.tool, pair.swapped())
        points = grid.points_world().reshape(1, -1, 3)[:, :: max(1, math.prod(grid.shape) // 100_000)]
        off = float((written(points) - inverse(points)).norm(dim=-1).nanmean())
        if off > MAX_ERROR_MM:
            console.print(
                f"in this format the inverse is {off:.3f} mm off on average; .safetensors keeps it exact"
            )


@app.command()
def convert(
    transform: TransformPath,
    output: Output,
    reference: ReferenceOption = None,
    moving: Moving = None,
    to: To = None,
    of: From = None,
    assume_orientation: AssumeOption = None,
    fixed_spacing: FixedSpacing = None,
    fixed_orientation: FixedOrientation = None,
    moving_spacing: MovingSpacing = None,
    moving_orientation: MovingOrientation = None,
) -> None:
    """Write a transform as another tool's file.

    Endings: .safetensors (ours); .h5, .tfm, .txt, .mat, .nii.gz (ITK, ANTs, Slicer); .mat, .nii.gz with --to
    fsl or greedy; .txt with --to mrtrix or niftyreg; .lta, .mgz (FreeSurfer); .aff12.1D (AFNI); .x5; .zarr.
    """
    check_outputs([output], [transform, reference, moving])
    sides = Sides.of(assume_orientation, fixed_orientation, fixed_spacing, moving_orientation, moving_spacing)
    pair = read_pair(reference, moving, sides)
    format_of(output, to, writing=True)
    save(load_one(transform, of, pair), output, to, pair)


@app.command()
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
    assume_orientation: AssumeOption = None,
    fixed_spacing: FixedSpacing = None,
    fixed_orientation: FixedOrientation = None,
    moving_spacing: MovingSpacing = None,
    moving_orientation: MovingOrientation = None,
) -> None:
    """Write the Jacobian determinant of a transform, and report where the transform folds."""
    if differences not in DIFFERENCES:
        raise PatchMorphError(f"differences must be {' or '.join(DIFFERENCES)}, got {differences}")
    check_ending(output)
    check_outputs([output], [transform, reference, moving])
    sides = Sides.of(assume_orientation, fixed_orientation, fixed_spacing, moving_orientation, moving_spacing)
    place = read_reference(reference, sides.fixed)
    grid = place.grid
    pair = GridPair(grid, None if moving is None else read_reference(moving, sides.moving).grid)
    chain = load_chain([transform], of and [of], inverse, pair.swapped() if inverse else pair)
    by = {name: jacobian_determinant(chain, grid, name) for name in DIFFERENCES}
    folds = folding(chain, grid)
    known = {name: values[~values.isnan()] for name, values in by.items()}
    if any(values.numel() == 0 for values in known.values()):
        raise PatchMorphError(f"{reference} must lie where the transform maps points, got no mapped voxel")
    determinant = log_determinant(by[differences]) if log else by[differences]
    save_image(Image(determinant[None, None], grid), output, place.code)
    print_written(output)
    percentages = {
        f"folding, % of voxels by {name} differences": 100 * float((values <= 0).float().mean())
        for name, values in known.items()
    }
    cells = {
        "non-diffeomorphic voxels": folds.voxels,
        "non-diffeomorphic tetrahedra": folds.tetrahedra,
        "non-diffeomorphic volume, %": 100 * folds.volume_share,
    }
    lowest, highest = float(known[differences].min()), float(known[differences].max())
    unmapped = by[differences].numel() - known[differences].numel()
    outside = {"voxels that are not mapped": unmapped} if unmapped else {}
    print_table(str(output), {"smallest": lowest, "largest": highest} | percentages | cells | outside)


def _finest(transform: Transform) -> Grid | None:
    """The finest of the grids that support fields of ``transform``; ``None`` if there are none."""
    grids = [grid for part in transform.parts() if (grid := part.support()) is not None]
    return min(grids, key=lambda grid: float(grid.spacing_mm.min()), default=None)
