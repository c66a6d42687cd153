"""The command that registers a cohort."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from patchmorph.cli.app import FolderOption, app, console
from patchmorph.cli.groups import with_options
from patchmorph.cli.options import MethodOptions, OutputOptions
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.pairs import NAME, OPTIONAL, REQUIRED, PairPaths
from patchmorph.io.atomic import check_folder
from patchmorph.io.bids import describe_derivatives
from patchmorph.registration.verdict import LEVELS

SOME_FAILED = 1
"""Exit status where some pairs could not be registered, or have the verdict fail."""


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
    scheduler: Annotated[
        str | None,
        typer.Option(help="Dask scheduler whose workers register the pairs: tcp://HOST:PORT, or its file."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes on this computer. [default: one for each GPU, or for each two cores]"
        ),
    ] = None,
    *,
    written: OutputOptions,
) -> None:
    """Register every pair of a cohort, several at a time.

    Run again, the command registers only pairs that are new, have changed or have failed. The exit code is 1
    if any pair could not be registered or has the verdict fail.
    """
    from patchmorph.cluster.batch import Workers, register_cohort
    from patchmorph.cluster.cohort import tasks_of
    from patchmorph.cluster.ledger import TABLE, Ledger, row_of
    from patchmorph.report.cohort import FAILED, write_cohort

    if scheduler is not None and workers is not None:
        raise PatchMorphError(f"--workers must be left out where --scheduler has its own, got {workers}")
    check_folder(output)
    template = written.request(PairPaths(Path(), Path()), output, options.method(), overwrite=True)
    tasks = tasks_of(source, template, fixed, suffix)
    if source.is_dir():
        describe_derivatives(output)
    for count, outcome in enumerate(register_cohort(tasks, output, Workers(scheduler, workers)), 1):
        reasons = f": {outcome.reasons}" if outcome.reasons else ""
        console.print(f"{count} {outcome.name}: {outcome.verdict}{reasons}")
    outcomes = Ledger(output).outcomes()
    page = write_cohort([row_of(outcome, output) for outcome in outcomes], output, output.absolute().name)
    by_verdict = Counter(outcome.verdict for outcome in outcomes)
    counts = ", ".join(f"{by_verdict[verdict]} {verdict}" for verdict in (*LEVELS, FAILED))
    console.print(f"{len(outcomes)} pairs: {counts}; see {page} and {output / TABLE}")
    if by_verdict[LEVELS[-1]] or by_verdict[FAILED]:
        raise typer.Exit(SOME_FAILED)
