"""Networks on the full volume, as VoxelMorph and TransMorph are used, and ours on patches, trained as long.

    python benchmarks/full_volume.py align 'IMAGES/*.nii.gz' FOLDER
    python benchmarks/full_volume.py train unet|swin|patches 'FOLDER/*.nii' [--minutes 16] [--models FOLDER]

``align`` brings people to the first of them by the affine stage of `t1-brain`, since networks on the full
volume are given aligned images. ``train`` trains on one GPU, without labels: ``unet`` and ``swin`` in one
pass on volumes of 192³ voxels of 1 mm, ``patches`` by configs/t1-brain-pyramid.yaml, whose loss all three
have. The time includes reading, compiling and a few steps that measure the rate, by which the number of steps
is chosen, so that the learning rate has come down when the time is up. Writes MODELS/NETWORK.safetensors, by
which `benchmarks/compare.py --models MODELS` registers, and results/full-volume-NETWORK.json.
"""

import argparse
import gc
import json
import shutil
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

import machine
import torch
from backbones import trained

from patchmorph import api
from patchmorph.catalogue import save_model
from patchmorph.images.foreground import find_content
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image, save_image
from patchmorph.spatial.grid import Grid
from patchmorph.training.config import TrainingConfig, load_config
from patchmorph.training.loop import train
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.resample import resample

CONFIG = Path(__file__).parents[1] / "configs" / "t1-brain-pyramid.yaml"
BOX = (208, 224, 208)
"""Voxels of 1 mm of the aligned images."""
LEVELS = 118
"""Largest intensity of the aligned images: seven bits, so that they compress well."""
FULL_VOLUME: dict[str, dict[str, Any]] = {
    "model": {"patch_size": 192, "spacings_mm": [1.0], "reference_radius_mm": None, "affine": None},
    "pairs": {"start_mm": 1.0, "root_mm": 4.0},
    # Aligned images differ less than those that patches are trained with.
    "augmentation": {
        "rotation_deg": 5.0,
        "scale": 0.05,
        "anisotropy": 0.04,
        "shear": 0.03,
        "shift_mm": 4.0,
    },
    "optimization": {"batch": 1},
}
"""What is not as in `CONFIG`."""
LEARNING_RATES = {"unet": 6e-4, "swin": 3e-4, "patches": 6e-4}
PROBE_STEPS = 40
PROBE_EVERY = 20
RESERVE_SECONDS = 25.0
"""For what the probe does not measure."""


def align(paths: list[Path], folder: Path) -> None:
    """Write each image on one grid of 1 mm around the first one's content, affinely aligned to it."""
    first = load_image(paths[0])
    center = find_content(first.normalized()).center_world.double().round()
    grid = Grid.centered(BOX, 1.0, center)
    model = api.load_model("t1-brain")
    for path in paths:
        transform = AffineTransform.identity()
        if path != paths[0]:
            found = api.register(paths[0], path, model, transform="affine").transform
            assert isinstance(found, AffineTransform)
            transform = found.to("cpu")
        image = load_image(path)
        values = resample(image, transform, grid, "cubic").values().float()
        levels = (values * (LEVELS / float(image.values().max()))).round().clamp(0, LEVELS)
        save_image(Image(levels.to(torch.uint8), grid), folder / f"{path.name.split('.')[0]}.nii")


def configure(network: str, pattern: str) -> TrainingConfig:
    """The configuration, without its output and steps."""
    content = load_config(CONFIG).model_dump()
    content["data"]["images"] = [str(Path(pattern).resolve())]
    content["optimization"]["learning_rate"] = LEARNING_RATES[network]
    content["run"] = {
        "output": "unused",
        "affine_weights": "t1-brain",
        "log_every": 25,
        "checkpoint_every": 1000,
    }
    if network != "patches":
        for section, values in FULL_VOLUME.items():
            content[section] |= values
        content["model"]["dense"] = {"name": network, "options": {}}
        content["run"]["affine_weights"] = None
    return TrainingConfig.model_validate(content)


def changed(config: TrainingConfig, steps: int, **run: Any) -> TrainingConfig:
    content = config.model_dump()
    content["optimization"]["steps"] = steps
    content["run"] |= run
    return TrainingConfig.model_validate(content)


def lines_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def train_for(config: TrainingConfig, minutes: float, folder: Path, device: torch.device) -> None:
    """Train into ``folder``, so that the last step comes when the time is up."""
    began = time.monotonic()
    probe = folder.with_name(f"{folder.name}-probe")
    for old in (folder, probe):
        shutil.rmtree(old, ignore_errors=True)
    train(changed(config, PROBE_STEPS, output=str(probe), log_every=PROBE_EVERY), device)
    rate = lines_of(probe)[-1]["steps_per_second"]
    used = time.monotonic() - began
    preparation = used - PROBE_STEPS / rate
    left = 60 * minutes - used - RESERVE_SECONDS
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    steps = max(1, round((left - preparation) * rate))
    train(changed(config, steps, output=str(folder), minutes=max(left, 1.0) / 60), device)


def figures(folder: Path, minutes: float) -> dict[str, Any]:
    """What the training in ``folder`` was."""
    lines, model = lines_of(folder), trained(folder, torch.device("cpu"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "pairs_a_step": config["optimization"]["batch"],
        "steps": lines[-1]["step"],
        "steps_planned": config["optimization"]["steps"],
        "minutes": minutes,
        "steps_per_second_median": median(line["steps_per_second"] for line in lines),
        "reserved_gib": lines[-1]["memory_gib"],
        "loss_of_last_1000_steps": fmean(
            line["loss"] for line in lines if line["step"] > lines[-1]["step"] - 1000
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    aligning = commands.add_parser("align")
    aligning.add_argument("images")
    aligning.add_argument("folder", type=Path)
    training = commands.add_parser("train")
    training.add_argument("network", choices=LEARNING_RATES)
    training.add_argument("images")
    training.add_argument("--minutes", type=float, default=16.0)
    training.add_argument("--device", default="cuda")
    training.add_argument("--models", type=Path, default=Path("runs/full-volume"))
    training.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()
    pattern = Path(arguments.images)
    people = sorted(pattern.parent.glob(pattern.name))
    if arguments.command == "align":
        arguments.folder.mkdir(parents=True, exist_ok=True)
        align(people, arguments.folder)
        return
    folder = (arguments.models / f"run-{arguments.network}").resolve()
    began = time.monotonic()
    train_for(
        configure(arguments.network, arguments.images),
        arguments.minutes,
        folder,
        torch.device(arguments.device),
    )
    taken = (time.monotonic() - began) / 60
    save_model(
        trained(folder, torch.device("cpu")), arguments.models / f"{arguments.network}.safetensors", half=True
    )
    record = {"network": arguments.network, "people": len(people)} | figures(folder, taken)
    machine.write(f"full-volume-{arguments.network}", record, arguments.output)


if __name__ == "__main__":
    main()
