"""Commands that train and evaluate models."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from patchmorph import api, catalogue
from patchmorph.cli.app import DeviceOption, FolderOption, ModelOption, TrustOption, app, console, print_table
from patchmorph.io.atomic import check_folder, check_outputs, whole_folder
from patchmorph.networks.devices import choose_device
from patchmorph.results.summary import SUMMARY, versions

ROWS = "pairs.csv"
"""Table of the results of each pair, in the folder of an evaluation."""


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/t1-brain.yaml.")],
    resume: Annotated[bool, typer.Option(help="Continue from the last checkpoint.")] = False,
    device: DeviceOption = "auto",
    trust: TrustOption = None,
) -> None:
    """Train a model on the images that CONFIG names."""
    from patchmorph.training.config import load_config
    from patchmorph.training.loop import train as run_training

    run_training(load_config(config), choose_device(device), resume, trust or ())


@app.command()
def evaluate(
    pairs: Annotated[Path, typer.Argument(help="CSV: fixed,moving[,fixed_labels,moving_labels].")],
    output: FolderOption,
    model: ModelOption = catalogue.AUTO,
    device: DeviceOption = "auto",
    trust: TrustOption = None,
) -> None:
    """Register every pair of a table and measure overlap, folding and time."""
    from patchmorph.evaluation.benchmark import evaluate as run_evaluation
    from patchmorph.evaluation.benchmark import summarize
    from patchmorph.evaluation.pairs import load_pairs

    check_folder(output)
    table = load_pairs(pairs)
    inputs = [path for pair in table for path in vars(pair).values()]
    check_outputs([output / name for name in (ROWS, SUMMARY)], [pairs, Path(model), *inputs])
    by_name = model in (catalogue.AUTO, catalogue.NO_MODEL)
    network = model if by_name else catalogue.load_model(model, device, trust or ())
    results = []
    for result in run_evaluation(table, lambda fixed, moving: api.register(fixed, moving, network, device)):
        results.append(result)
        console.print(f"{len(results)}/{len(table)} {Path(result.moving).name} → {Path(result.fixed).name}")
    means = summarize(results)
    summary = {
        "pairs": len(results),
        "mean": means,
        "versions": versions(),
        "model": model,
        "device": str(choose_device(device)),
    }
    with whole_folder(output) as folder:
        rows = [asdict(result) for result in results]
        with (folder / ROWS).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print_table(f"mean of {len(rows)} pairs", means)
