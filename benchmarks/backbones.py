"""A backbone trained for a given time on one GPU, and evaluated: writes results/backbone-NETWORK.json.

    python benchmarks/backbones.py unet|swin 'IMAGES/*.nii' [--minutes 10] [--data FOLDER]

The recipe is that of configs/t1-brain.yaml but for the backbone and the number of steps: as many as fit into
the time, so that the learning rate has come down when it is up. Reading and compiling count as training time.
The pairs are the 20 ordered pairs of `benchmarks/accuracy.py`.
"""

import argparse
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import machine
import torch
from accuracy import pairs

from patchmorph.evaluation.benchmark import evaluate, loading, summarize
from patchmorph.io.tensors import read_tensors
from patchmorph.networks.model import ModelSpec, PatchMorphModel
from patchmorph.registration.pipeline import register_images
from patchmorph.training import checkpoint
from patchmorph.training.config import TrainingConfig, load_config
from patchmorph.training.loop import train

CONFIG = Path(__file__).parents[1] / "configs" / "t1-brain.yaml"
STEPS_PER_MINUTE = {"unet": 1650, "swin": 1300}
"""About what one H200 does, compiling included. Where the time is up earlier, it ends the training."""


def configure(network: str, pattern: str, minutes: float, output: Path) -> TrainingConfig:
    content = load_config(CONFIG).model_dump()
    content["model"]["dense"] = {"name": network}
    content["data"]["images"] = [str(Path(pattern).resolve())]
    content["optimization"]["steps"] = round(STEPS_PER_MINUTE[network] * minutes)
    content["run"] = {
        "output": str(output.resolve()),
        "minutes": minutes,
        "log_every": 100,
        "checkpoint_every": 3000,
    }
    return TrainingConfig.model_validate(content)


def trained(folder: Path, device: torch.device) -> PatchMorphModel:
    """The model in the last checkpoint."""
    tensors, metadata = read_tensors(folder / checkpoint.FILE)
    model = PatchMorphModel(ModelSpec.model_validate(metadata["spec"]))
    prefix = "model/"
    weights = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    model.load_state_dict(weights)
    return model.to(device).eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=STEPS_PER_MINUTE)
    parser.add_argument("images")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--data", type=Path, default=machine.DATA / "t1-labelled")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--work", type=Path, default=Path("runs/backbones"))
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()
    folder, device = arguments.work / arguments.network, torch.device(arguments.device)
    shutil.rmtree(folder, ignore_errors=True)
    config = configure(arguments.network, arguments.images, arguments.minutes, folder)
    began = time.monotonic()
    train(config, device)
    minutes = (time.monotonic() - began) / 60
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    model = trained(folder, device)
    results = list(
        evaluate(pairs(arguments.data), loading(lambda fixed, moving: register_images(fixed, moving, model)))
    )
    figures = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "people": len(list(Path(arguments.images).parent.glob(Path(arguments.images).name))),
        "chains": config.optimization.batch,
        "steps": lines[-1]["step"],
        "steps_planned": config.optimization.steps,
        "minutes": minutes,
        "steps_per_second_median": median(line["steps_per_second"] for line in lines),
        "reserved_gib": lines[-1]["memory_gib"],
        "mean": summarize(results),
        "pairs": [
            asdict(result) | {"fixed": Path(result.fixed).name, "moving": Path(result.moving).name}
            for result in results
        ],
    }
    machine.write(f"backbone-{arguments.network}", figures, arguments.output)


if __name__ == "__main__":
    main()
