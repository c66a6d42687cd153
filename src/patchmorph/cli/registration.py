"""Commands that register images and report on the result."""

from pathlib import Path
from typing import Annotated

import typer

from patchmorph import catalogue
from patchmorph.cli.app import (
    AssumeOption,
    DeviceOption,
    FolderOption,
    ModelOption,
    TrustOption,
    app,
    console,
    print_table,
)
from patchmorph.cli.images import FixedOrientation, FixedSpacing, MovingOrientation, MovingSpacing, spacing_of
from patchmorph.results.folder import ALL, DEFAULT, FILES
from patchmorph.results.summary import Summary

FAILED = 3
"""Exit status of ``register --strict`` where the verdict is fail."""


@app.command("register")
def register_command(
    fixed: Annotated[
        Path,
        typer.Argument(
            help="Fixed image, whose space the result is in: a file, a folder, or a template such as mni152."
        ),
    ],
    moving: Annotated[Path, typer.Argument(help="Moving image, registered to FIXED.")],
    output: FolderOption,
    model: Annotated[
        str,
        typer.Option(help="auto (by the contrasts), a packaged model, a model file, or none (no network)."),
    ] = catalogue.AUTO,
    fixed_mask: Annotated[
        Path | None, typer.Option(help="Mask of the region of FIXED to register; by default its brain.")
    ] = None,
    moving_mask: Annotated[Path | None, typer.Option(help="The same for MOVING.")] = None,
    fixed_ignore: Annotated[
        Path | None,
        typer.Option(help="Mask of what of FIXED is left out of the comparison, such as a lesion."),
    ] = None,
    moving_ignore: Annotated[Path | None, typer.Option(help="The same for MOVING.")] = None,
    background: Annotated[
        float | None,
        typer.Option(help="Intensity of voxels that show nothing, as do NaN and infinity; nan: only these."),
    ] = None,
    refine: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Maximum of refinement passes. [default: 0; 20 for two contrasts; 40 without a model]",
        ),
    ] = None,
    save_uncertainty: Annotated[
        bool, typer.Option("--save-uncertainty", help="Write uncertainty.nii.gz: standard deviation in mm.")
    ] = False,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of every random draw.")] = 0,
    jitter: Annotated[
        bool, typer.Option(help="Shift the patches at random instead of using a regular lattice.")
    ] = False,
    similarity: Annotated[
        str, typer.Option(help="Similarity of the refinement: lncc, mse, or for two contrasts mind or mi.")
    ] = "lncc",
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with status 3 if the verdict is fail.")
    ] = False,
    assume_orientation: AssumeOption = None,
    fixed_spacing: FixedSpacing = None,
    fixed_orientation: FixedOrientation = None,
    moving_spacing: MovingSpacing = None,
    moving_orientation: MovingOrientation = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the results of an earlier run in the folder.")
    ] = False,
    save: Annotated[
        str, typer.Option(help=f"What is written, separated by commas: {', '.join(FILES)}, or {ALL}.")
    ] = ",".join(DEFAULT),
    trust: TrustOption = None,
) -> None:
    """Register MOVING to FIXED: write the warped image, transform and inverse, report and summary."""
    from patchmorph.jobs import RegistrationRequest, register_files

    request = RegistrationRequest(
        fixed=fixed,
        moving=moving,
        output=output,
        model=model,
        device=device,
        refine=refine,
        similarity=similarity,
        uncertainty=save_uncertainty,
        seed=seed,
        jitter=jitter,
        fixed_mask=fixed_mask,
        moving_mask=moving_mask,
        fixed_ignore=fixed_ignore,
        moving_ignore=moving_ignore,
        background=background,
        overwrite=overwrite,
        assume_orientation=assume_orientation,
        fixed_orientation=fixed_orientation,
        fixed_spacing=spacing_of(fixed_spacing),
        moving_orientation=moving_orientation,
        moving_spacing=spacing_of(moving_spacing),
        trust=tuple(trust or ()),
        save=tuple(save.split(",")),
    )
    summary = register_files(request)
    _print_summary(summary, output)
    if strict and summary.verdict == "fail":
        raise typer.Exit(FAILED)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Results folder of `patchmorph register`.")],
) -> None:
    """Render the report of a results folder again."""
    from patchmorph.report.page import write_report

    console.print(f"wrote {write_report(folder)}")


@app.command()
def models() -> None:
    """List the packaged models."""
    from patchmorph.io.tensors import read_tensors

    for name, path in catalogue.packaged_models().items():
        spec = read_tensors(path)[1]["spec"]
        spacings = ", ".join(f"{spacing:g}" for spacing in spec["spacings_mm"])
        console.print(
            f"{name}  {path.stat().st_size / 1e6:.1f} MB, patches of {spec['patch_size']}³ at {spacings} mm"
        )


@app.command()
def demo(
    output: FolderOption = Path("demo"),
    model: ModelOption = catalogue.AUTO,
    device: DeviceOption = "auto",
    trust: TrustOption = None,
) -> None:
    """Register two real brains from pip packages and write a report."""
    from patchmorph.demo import register_demo

    summary, lines = register_demo(output, model, device, tuple(trust or ()))
    for line in lines:
        console.print(line)
    _print_summary(summary, output)


def _print_summary(summary: Summary, output: Path) -> None:
    for note in summary.notes:
        console.print(note)
    values = {
        "similarity_before": summary.similarity_before,
        "similarity_after": summary.similarity_after,
        "folding_percent": summary.folding_percent,
    }
    timing = {f"seconds: {name}": value for name, value in summary.seconds.items()}
    print_table(str(output / "report.html"), values | timing)
    console.print(f"verdict: {summary.verdict}")
    for reason in summary.reasons:
        console.print(f"  {reason}")
