"""Commands that train and evaluate models."""

from pathlib import Path
from typing import Annotated

import typer

from patchmorph.catalogue import NO_MODEL
from patchmorph.cli.app import DeviceOption, FolderOption, TrustOption, app, console, print_table
from patchmorph.cli.groups import with_options
from patchmorph.cli.options import MethodOptions
from patchmorph.evaluation.pairs import OPTIONAL, REQUIRED, TRANSFORM, PairPaths, load_pairs
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
        typer.Argument(help=f"CSV: {','.join(REQUIRED)}, and any of {', '.join((*OPTIONAL, TRANSFORM))}."),
    ],
    options: MethodOptions,
    output: FolderOption,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier evaluation in the folder.")
    ] = False,
) -> None:
    """Register every pair of a table; measure overlap, distances, folding and time.

    A pair with a map of another tool in the column transform is measured only; --from says whose it is where
    its file does not.

    Each row is written when its pair is done. A pair that fails has its reason there, and the exit code is 1.
    """
    from patchmorph.evaluation.benchmark import LoadedPair, summarize
    from patchmorph.evaluation.benchmark import evaluate as run_evaluation
    from patchmorph.evaluation.structures import summarize_structures
    from patchmorph.evaluation.table import ROWS, STRUCTURES, SUMMARY, check_evaluation, write_means, written
    from patchmorph.jobs import read_pair
    from patchmorph.report.evaluated import EvaluationPages

    check_folder(output)
    table, method = load_pairs(pairs, (TRANSFORM,)), options.method()
    inputs = [path for pair in table for path in pair.inputs()]
    check_outputs(
        [output / name for name in (ROWS, STRUCTURES, SUMMARY)], [pairs, Path(method.model), *inputs]
    )
    check_evaluation(output, overwrite)
    registers = any(pair.transform is None for pair in table)
    model = method.loaded_model() if registers else NO_MODEL
    results, pages = [], EvaluationPages(output, method)

    def load(paths: PairPaths) -> LoadedPair:
        if paths.transform is None:
            pages.wait()
        return read_pair(paths, method, model)

    for result in written(run_evaluation(table, load, pages.keep), output):
        results.append(result)
        names = f"{Path(result.moving).name} → {Path(result.fixed).name}"
        console.print(f"{len(results)}/{len(table)} {names}: {result.error or result.verdict}")
    done = [result for result in results if not result.error]
    means = summarize(done)
    failed = len(results) - len(done)
    counts = {"pairs": len(done), "failed": failed, "mean": means}
    structures = {"structures": summarize_structures([result.structures for result in done])}
    how = {
        "model": method.model if registers else None,
        "device": str(choose_device(method.device)),
        "arguments": method.arguments(),
    }
    write_means(counts | structures | {"versions": versions()} | how, output)
    print_table(f"mean of {len(done)} pairs", means)
    console.print(f"see {pages.write_list(results)}")
    if failed:
        console.print(f"{failed} of {len(results)} pairs failed; the reasons are in {output / ROWS}")
        raise typer.Exit(SOME_FAILED)
