"""What needs a GPU: writes results/gpu.json.

    python benchmarks/gpu.py --train 'IMAGES/*.nii' [--data FOLDER]

Seconds of one registration in Python, images on the GPU; how far the CUDA result (bf16 networks) is from the
CPU result; training steps a second at 8 chains, replayed as a graph and eager, with the memory they take.
"""

import argparse
import glob
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import machine
import torch

from patchmorph import api
from patchmorph.io.images import load_image
from patchmorph.registration.model import PatchMorphModel
from patchmorph.training.augmentation import Draw
from patchmorph.training.cohort import Cohort
from patchmorph.training.config import Pairing, Run, TrainingConfig
from patchmorph.training.gradients import CapturedStep
from patchmorph.training.step import Terms, chain_loss

CHAINS = 8
CUDA = torch.device("cuda")


def seconds(function: Callable[[], object], runs: int) -> list[float]:
    times = []
    for _ in range(runs):
        torch.cuda.synchronize()
        began = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return times


def registration(folder: Path) -> dict[str, float]:
    fixed, moving = (load_image(next(folder.glob(f"sub-0{k}_T1w.nii*"))) for k in (1, 2))
    model = api.load_model(api.DEFAULT_MODEL, "cuda")
    fixed_gpu, moving_gpu = fixed.to(CUDA), moving.to(CUDA)
    seconds(lambda: api.register(fixed_gpu, moving_gpu, model), 3)
    torch.cuda.reset_peak_memory_stats()
    times = seconds(lambda: api.register(fixed_gpu, moving_gpu, model), 10)
    memory = torch.cuda.max_memory_allocated() / 2**30
    points = fixed.grid.points_world()[fixed.data[:, 0] > 0][None]
    on_cuda = api.register(fixed_gpu, moving_gpu, model).transform(points.to(CUDA)).cpu()
    on_cpu = api.register(fixed, moving, device="cpu").transform(points)
    difference = (on_cuda - on_cpu).norm(dim=-1)
    return {
        "register_seconds_median": statistics.median(times),
        "register_peak_allocated_gib": memory,
        "cuda_against_cpu_mm_mean": float(difference.mean()),
        "cuda_against_cpu_mm_99th_percentile": float(difference.quantile(0.99)),
        "cuda_against_cpu_mm_largest": float(difference.max()),
    }


def training(pattern: str) -> dict[str, float]:
    config = TrainingConfig(pairs=Pairing(images=[pattern]), run=Run(output="unused"))
    torch.backends.cudnn.benchmark = True
    cohort = Cohort([load_image(path) for path in sorted(glob.glob(pattern))], config.model.spacings_mm, CUDA)
    model = PatchMorphModel(config.model).to(CUDA).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    generator = torch.Generator().manual_seed(0)

    def draw() -> Draw:
        return Draw.sample(len(cohort), CHAINS, len(config.model.spacings_mm), 0.5, generator).to(CUDA)

    def eager(drawn: Draw) -> Terms:
        optimizer.zero_grad()
        loss, terms = chain_loss(model, cohort, drawn, config)
        loss.backward()
        return terms

    def step(gradients: Callable[[Draw], Terms]) -> Callable[[], object]:
        def run() -> None:
            gradients(draw())
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

        return run

    seconds(step(eager), 5)
    torch.cuda.reset_peak_memory_stats()
    slow = sum(seconds(step(eager), 20)) / 20
    memory = torch.cuda.max_memory_allocated() / 2**30
    captured = CapturedStep(eager, optimizer.zero_grad, draw())
    seconds(step(captured), 5)
    fast = sum(seconds(step(captured), 60)) / 60
    return {
        "chains": CHAINS,
        "steps_per_second": 1 / fast,
        "steps_per_second_eager": 1 / slow,
        "peak_allocated_gib_eager": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=machine.DATA / "t1-labelled")
    parser.add_argument("--train", required=True)
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()
    figures = {"registration": registration(arguments.data), "training": training(arguments.train)}
    machine.write("gpu", figures, arguments.output)


if __name__ == "__main__":
    main()
