"""Commands that register images and report on the result."""

from pathlib import Path
from typing import Annotated

import typer

from patchmorph import catalogue
from patchmorph.cli.app import DeviceOption, FolderOption, ModelOption, TrustOption, app, console, print_table
from patchmorph.cli.groups import with_options
from patchmorph.cli.options import CHECKS, OUTPUT, MethodOptions, OutputOptions, PairOptions
from patchmorph.results.folder import REPORT
from patchmorph.results.summary import Summary

FAILED = 3
"""Exit status of ``register --strict`` where the verdict is fail."""


@app.command("register")
@with_options
def register_command(
    fixed: Annotated[
        Path,
        typer.Argument(
            help="Fixed image, whose space the result is in: a file, a folder, or a template such as mni152."
        ),
    ],
    moving: Annotated[Path, typer.Argument(help="Moving image, registered to FIXED.")],
    files: PairOptions,
    options: MethodOptions,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for the results; created if missing.", rich_help_panel=OUTPUT
        ),
    ],
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace the results of an earlier run in the folder.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Exit with status 3 if the verdict is fail.", rich_help_panel=CHECKS),
    ] = False,
    *,
    written: OutputOptions,
) -> None:
    """Register MOVING to FIXED: write the warped image, the transform, a report and a summary."""
    from patchmorph.jobs import register_files

    paths = files.paths(fixed, moving)
    summary = register_files(written.request(paths, output, options.method(), overwrite))
    _print_summary(summary, output)
    if strict and summary.verdict == "fail":
        raise typer.Exit(FAILED)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of `patchmorph register` or of a training.")],
) -> None:
    """Render the report of a registration again, or that of a training: its curves and patches."""
    from patchmorph.report.folders import write_report_of

    console.print(f"wrote {write_report_of(folder)}")


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
    report = output / REPORT
    print_table(str(report if report.exists() else output), values | timing)
    console.print(f"verdict: {summary.verdict}")
    for reason in summary.reasons:
        console.print(f"  {reason}")
