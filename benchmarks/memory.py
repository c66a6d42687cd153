"""GPU memory and seconds of a step, patches against the full volume: writes results/memory.json.

    python benchmarks/memory.py [--minutes 4] [--output FOLDER]

Both sides run `patchmorph.training` with batch 1, the same networks and the same loss; the full volume is a
schedule of one scale whose patch is the whole volume. Images are synthetic, uint8, and lie in page-locked
host memory on both sides, so that what is measured is the method. On either side nothing is compiled but the
reader of voxels, and the algorithms of convolutions are cuDNN's own choice. The patchwise step is replayed as
a CUDA graph, as `patchmorph train` does, since it is bound by launches; the full-volume step is not.

Measured: the allocator's peak of reserved memory, over the whole run and in a steady step, and seconds a
step; likewise for `register` on images in GPU memory. Rows come in order of importance; ``--minutes`` bounds
them.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import machine
import torch
from torch.nn import functional

from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.networks.blocks import set_recompute
from patchmorph.networks.model import ModelSpec, NetworkSpec, PatchMorphModel
from patchmorph.registration.pipeline import register_images
from patchmorph.spatial.grid import Grid
from patchmorph.training.augmentation.draw import Draw
from patchmorph.training.config import Data, Optimization, Run, TrainingConfig
from patchmorph.training.data.cohort import Cohort
from patchmorph.training.data.packed import PackedVolumes
from patchmorph.training.data.subjects import Subject
from patchmorph.training.gradients import CapturedStep, FlatGradients, Report, add_gradients

CUDA = torch.device("cuda")
SIZES = (128, 192, 256, 384, 512)
LARGEST = 1024
COMPARED = 256
PATCH = 64
NETWORKS = ("swin", "unet")
KEYS = ("what", "network", "side", "size", "mode")
LIMIT = 0.9
"""Share of the GPU's memory beyond which a row counts as out of memory."""
MODES = ("bf16", "fp32", "bf16 + checkpointing")
GIB = 2**30


def spec(network: str, side: str, size: int, mode: str) -> ModelSpec:
    dense, precision = NetworkSpec(name=network), mode[:4]
    if side == "full volume":
        shape = {"patch_size": size, "spacings_mm": [1.0], "affine": None}
    else:
        # Always three stages, from the whole volume to its own resolution.
        coarse = size / PATCH
        shape = {"patch_size": PATCH, "spacings_mm": [coarse, coarse**0.5, 1.0]}
    return ModelSpec.model_validate(
        {"dense": dense, "precision": precision, "reference_radius_mm": None, **shape}
    )


def volume(size: int) -> torch.Tensor:
    """Smooth noise in a ball: what a step costs does not depend on what an image shows."""
    side = min(size, 256)
    noise = torch.rand(1, 1, 24, 24, 24, generator=torch.Generator().manual_seed(size))
    block = functional.interpolate(noise, size=(side,) * 3, mode="trilinear")
    repeats = -(-size // side)
    return (block * 255).to(torch.uint8).repeat(1, 1, *(repeats,) * 3)[..., :size, :size, :size].contiguous()


def cohort(model: ModelSpec, size: int, folder: Path) -> Cohort:
    """Two synthetic subjects of ``size``³ voxels of 1 mm, in host memory."""
    subjects = []
    for number in range(2):
        path = folder / f"{size}-{number}.nii"
        if not path.exists():  # stands for the image: only its centre is used
            grid = Grid.centered((32, 32, 32), size / 32, torch.zeros(1, 3))
            save_image(Image(volume(32), grid), path)
        subjects.append(Subject(path))
    result = Cohort(subjects, model.spacings_mm, Data(images=["unused"]), CUDA)
    for spacing in model.spacings_mm:
        level = volume(round(size / spacing))
        shape = (level.shape[2], level.shape[3], level.shape[4])
        packed = PackedVolumes([level.numel()] * 2, CUDA, on_host=True)
        for slot in range(2):
            packed.put(slot, level, Grid.centered(shape, spacing, torch.zeros(1, 3)))
        result.levels[spacing] = packed
    return result


def train(network: str, side: str, size: int, mode: str, folder: Path) -> dict[str, float]:
    model_spec = spec(network, side, size, mode)
    config = TrainingConfig(
        model=model_spec,
        data=Data(images=["unused"]),
        optimization=Optimization(batch=1),
        run=Run(output="unused"),
    )
    images = cohort(model_spec, size, folder)
    torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    model = PatchMorphModel(model_spec).to(CUDA).train()
    set_recompute(model.dense, mode.endswith("checkpointing"))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    gradients = FlatGradients(model)
    generator = torch.Generator().manual_seed(0)

    def draw() -> Draw:
        return Draw.sample(2, 1, len(model_spec.spacings_mm), 0.5, generator).to(CUDA)

    def add(drawn: Draw) -> Report:
        return add_gradients(model, images, drawn, config)

    step = CapturedStep(add, draw()) if side == "patches" else add

    def run() -> None:
        gradients.buffer.zero_()
        step(draw())
        gradients.finish(1, 1, 1.0)
        optimizer.step()

    machine.seconds(run, 1)
    whole = torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    duration = machine.seconds(run, 1)
    if size == COMPARED:
        duration = machine.seconds(run, 20 if side == "patches" else 3)
    figures = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "reserved_gib": max(whole, torch.cuda.max_memory_reserved()) / GIB,
        "reserved_steady_gib": torch.cuda.max_memory_reserved() / GIB,
    }
    return figures | ({"seconds": duration} if size == COMPARED else {})


def infer(network: str, side: str, size: int, mode: str, _: Path) -> dict[str, float]:
    model = PatchMorphModel(spec(network, side, size, mode)).to(CUDA)
    grid = Grid.centered((size, size, size), 1.0, torch.zeros(1, 3))
    fixed, moving = (Image(volume(size), grid).to(CUDA) for _ in range(2))
    torch.cuda.reset_peak_memory_stats()

    def run() -> None:
        register_images(fixed, moving, model)

    machine.seconds(run, 1)
    figures = {"reserved_gib": torch.cuda.max_memory_reserved() / GIB, "images_gib": 2 * size**3 / GIB}
    return figures | (
        {"seconds": machine.seconds(lambda: register_images(fixed, moving, model), 3)}
        if size == COMPARED
        else {}
    )


def rows() -> Iterator[tuple[Callable[..., dict[str, float]], str, str, int, str]]:
    others = [size for size in SIZES if size != COMPARED]
    for side in ("patches", "full volume"):
        for mode in MODES:
            for network in NETWORKS:
                yield train, network, side, COMPARED, mode
    for size in (LARGEST, *others):
        for network in NETWORKS:
            yield train, network, "patches", size, "bf16"
    for size in others:
        for mode in MODES:
            for network in NETWORKS:
                yield train, network, "full volume", size, mode
    for size in (COMPARED, *others):
        for side in ("patches", "full volume"):
            for network in NETWORKS:
                yield infer, network, side, size, "bf16"
    for size in (LARGEST, *others):
        for mode in MODES[1:]:
            for network in NETWORKS:
                yield train, network, "patches", size, mode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--resume", action="store_true", help="keep the rows that the result file has")
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = True
    torch.cuda.set_per_process_memory_fraction(LIMIT)
    began = time.monotonic()
    file = arguments.output / "memory.json"
    measured = json.loads(file.read_text())["rows"] if arguments.resume and file.exists() else []
    before = [{key: row[key] for key in KEYS} for row in measured]
    with TemporaryDirectory() as folder:
        for what, *values in rows():
            row: dict[str, Any] = dict(zip(KEYS, (what.__name__, *values), strict=True))
            if row in before:
                continue
            if time.monotonic() - began > 60 * arguments.minutes:
                break
            try:
                row |= what(*values, Path(folder))
            except torch.OutOfMemoryError:
                row["out_of_memory"] = True
            gc.collect()
            torch._C._cuda_clearCublasWorkspaces()  # one a stream, and every graph is captured on a new one
            torch.cuda.empty_cache()
            row["left_gib"] = torch.cuda.memory_reserved() / GIB  # what the next row begins with
            measured.append(row)
            print(row, flush=True)
            machine.write("memory", {"limit": LIMIT, "rows": measured}, arguments.output, quiet=True)


if __name__ == "__main__":
    main()
