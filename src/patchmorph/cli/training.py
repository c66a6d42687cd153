"""Commands that train and evaluate models."""

from pathlib import Path
from typing import Annotated

import typer

from patchmorph.catalogue import NO_MODEL
from patchmorph.cli.app import DeviceOption, FolderOption, TrustOption, app, console, print_table
from patchmorph.cli.groups import with_options
from patchmorph.cli.options import EvaluationOptions
from patchmorph.evaluation.pairs import (
    OF_MAPS,
    OPTIONAL,
    REQUIRED,
    PairPaths,
    by_each_tool,
    load_evaluated_pairs,
)
from patchmorph.io.atomic import check_folder, check_outputs
from patchmorph.networks.devices import choose_device
from patchmorph.results.summary import versions

SOME_FAILED = 1
"""Exit status of ``evaluate`` where some pairs could not be registered."""


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/t1-brain.yaml.")],
    start: Annotated[
        str | None,
        typer.Option(
            "--from", help="Packaged model or model file to fine-tune: its networks, schedule and weights."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue from the last checkpoint.")] = False,
    device: DeviceOption = "auto",
    trust: TrustOption = None,
) -> None:
    """Train a model on the images that CONFIG names."""
    from patchmorph.training.config import load_config
    from patchmorph.training.loop import train as run_training

    run_training(load_config(config, start, trust or ()), choose_device(device), resume, trust or ())


@app.command()
@with_options
def evaluate(
    pairs: Annotated[
        Path,
        typer.Argument(help=f"CSV: {','.join(REQUIRED)}, and any of {', '.join((*OPTIONAL, *OF_MAPS))}."),
    ],
    options: EvaluationOptions,
    output: FolderOption,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier evaluation in the folder.")
    ] = False,
) -> None:
    """Register every pair of a table; measure overlap, distances, folding and time.

    Several models (--model A --model B) and maps of other tools (columns transform and tool) are compared. A
    pair with a map is measured only; --from says whose it is where its file does not.

    Each row is written when its pair is done. A pair that fails has its reason there, and the exit code is 1.
    """
    from patchmorph.evaluation.benchmark import LoadedPair
    from patchmorph.evaluation.benchmark import evaluate as run_evaluation
    from patchmorph.evaluation.comparison import Evaluation
    from patchmorph.evaluation.table import ROWS, TABLES, check_evaluation, write_results, written
    from patchmorph.jobs import read_pair
    from patchmorph.report.evaluated import EvaluationPages

    check_folder(output)
    methods = options.methods()
    table = by_each_tool(load_evaluated_pairs(pairs), list(methods))
    inputs = [path for pair in table for path in pair.inputs()]
    models = [Path(method.model) for method in methods.values()]
    check_outputs([output / name for name in TABLES], [pairs, *models, *inputs])
    check_evaluation(output, overwrite)
    registers = any(pair.transform is None for pair in table)
    loaded = {name: method.loaded_model() if registers else NO_MODEL for name, method in methods.items()}
    first = next(iter(methods))
    results, pages, computing = [], EvaluationPages(output, methods), choose_device(methods[first].device)

    def load(paths: PairPaths) -> LoadedPair:
        if paths.transform is not None:
            return read_pair(paths, methods[first], loaded[first])
        pages.wait()
        return read_pair(paths, methods[paths.tool], loaded[paths.tool])

    for result in written(run_evaluation(table, load, pages.keep, computing), output):
        results.append(result)
        names = f"{Path(result.moving).name} → {Path(result.fixed).name}"
        console.print(f"{len(results)}/{len(table)} {names}, {result.tool}: {result.error or result.verdict}")
    how = {
        "models": [method.model for method in methods.values()] if registers else [],
        "device": str(computing),
        "arguments": methods[first].arguments(),
        "versions": versions(),
    }
    evaluation = Evaluation.of(results)
    for tool, summary in write_results(results, evaluation, how, output).items():
        print_table(f"{tool}: mean of {summary['pairs']} pairs", summary["mean"])
    console.print(f"see {pages.write_list(results, evaluation)}")
    if failed := sum(bool(result.error) for result in results):
        console.print(f"{failed} of {len(results)} pairs failed; the reasons are in {output / ROWS}")
        raise typer.Exit(SOME_FAILED)
