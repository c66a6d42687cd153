"""The commands that register a cohort, and make its template."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from patchmorph.cli.app import FolderOption, app, console
from patchmorph.cli.groups import with_options
from patchmorph.cli.options import MethodOptions, OutputOptions
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.pairs import NAME, OPTIONAL, REQUIRED, PairPaths
from patchmorph.io.atomic import check_folder
from patchmorph.io.bids import describe_derivatives
from patchmorph.registration.verdict import LEVELS

if TYPE_CHECKING:
    from patchmorph.cluster.ledger import Outcome

SOME_FAILED = 1
"""Exit status where some pairs could not be registered, or have the verdict fail."""

SchedulerOption = Annotated[
    str | None,
    typer.Option(help="Dask scheduler whose workers register the pairs: tcp://HOST:PORT, or its file."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processes on this computer. [default: one for each GPU, or for each two cores]"
    ),
]


@app.command()
@with_options
def batch(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="PAIRS.csv|BIDS",
            help=f"CSV: {','.join(REQUIRED)}, and any of {', '.join((*OPTIONAL, NAME))}; or a BIDS folder.",
        ),
    ],
    options: MethodOptions,
    output: FolderOption,
    fixed: Annotated[
        str | None, typer.Option(help="Image or template that the images of a BIDS folder are registered to.")
    ] = None,
    suffix: Annotated[str, typer.Option(help="Suffix of these images.")] = "T1w",
    scheduler: SchedulerOption = None,
    workers: WorkersOption = None,
    *,
    written: OutputOptions,
) -> None:
    """Register every pair of a cohort, several at a time.

    Run again, the command registers only pairs that are new, have changed or have failed. The exit code is 1
    if any pair could not be registered or has the verdict fail.
    """
    from patchmorph.cluster.batch import Workers, register_cohort
    from patchmorph.cluster.cohort import tasks_of

    _check_workers(scheduler, workers)
    check_folder(output)
    template = written.request(PairPaths(Path(), Path()), output, options.method(), overwrite=True)
    tasks = tasks_of(source, template, fixed, suffix)
    if source.is_dir():
        describe_derivatives(output)
    for count, outcome in enumerate(register_cohort(tasks, output, Workers(scheduler, workers)), 1):
        _print_outcome(str(count), outcome)
    _finish(output)


@app.command()
@with_options
def template(
    images: Annotated[list[Path], typer.Argument(help="Images of the cohort, two or more.")],
    options: MethodOptions,
    output: FolderOption,
    rounds: Annotated[
        int, typer.Option(min=1, help="How often all images are registered to the mean and averaged again.")
    ] = 4,
    start: Annotated[
        Path | None,
        typer.Option(
            help="First template, whose grid the result has. [default: the mean after rigid alignment to the "
            "first image]"
        ),
    ] = None,
    no_sharpen: Annotated[
        bool, typer.Option("--no-sharpen", help="Leave out the Laplacian sharpening of each mean.")
    ] = False,
    scheduler: SchedulerOption = None,
    workers: WorkersOption = None,
    *,
    written: OutputOptions,
) -> None:
    """Make the mean image of a cohort, in its mean shape.

    Writes template.nii.gz, and the registration of each image to it into the folder pairs. Run again, the
    command registers only what is not done. The exit code is 1 if any of these has the verdict fail.
    """
    from patchmorph.cluster.batch import Workers
    from patchmorph.cluster.template import PAIRS, TEMPLATE, Building, build_template

    _check_workers(scheduler, workers)
    request = written.request(PairPaths(Path(), Path()), output, options.method(), overwrite=True)
    building = Building(rounds, start, not no_sharpen)
    for place, outcome in build_template(images, request, building, Workers(scheduler, workers)):
        _print_outcome(place, outcome)
    console.print(f"wrote {output / TEMPLATE}")
    _finish(output / PAIRS)


def _check_workers(scheduler: str | None, workers: int | None) -> None:
    if scheduler is not None and workers is not None:
        raise PatchMorphError(f"--workers must be left out where --scheduler has its own, got {workers}")


def _print_outcome(label: str, outcome: "Outcome") -> None:
    reasons = f": {outcome.reasons}" if outcome.reasons else ""
    console.print(f"{label} {outcome.name}: {outcome.verdict}{reasons}")


def _finish(output: Path) -> None:
    """Write the page of the cohort in ``output`` and print the number of each verdict.

    Raises:
        typer.Exit: some pair has failed, or has the verdict fail.
    """
    from patchmorph.cluster.ledger import TABLE, Ledger, row_of
    from patchmorph.report.cohort import FAILED, write_cohort

    outcomes = Ledger(output).outcomes()
    page = write_cohort([row_of(outcome, output) for outcome in outcomes], output, output.absolute().name)
    by_verdict = Counter(outcome.verdict for outcome in outcomes)
    counts = ", ".join(f"{by_verdict[verdict]} {verdict}" for verdict in (*LEVELS, FAILED))
    console.print(f"{len(outcomes)} pairs: {counts}; see {page} and {output / TABLE}")
    if by_verdict[LEVELS[-1]] or by_verdict[FAILED]:
        raise typer.Exit(SOME_FAILED)
