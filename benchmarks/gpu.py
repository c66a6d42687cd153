"""What needs a GPU: writes results/gpu.json.

    python benchmarks/gpu.py --train 'IMAGES/*.nii' [--data FOLDER]

Seconds of one registration in Python, images on the GPU; how far the CUDA result (bf16 networks) is from the
CPU result; training steps a second at 8 chains with each backbone, and the memory they take.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import machine
import torch

from patchmorph import api
from patchmorph.io.images import load_image
from patchmorph.registration.model import ModelSpec, NetworkSpec, PatchMorphModel
from patchmorph.spatial.compilation import compiling
from patchmorph.training.augmentation import Draw
from patchmorph.training.cohort import Cohort
from patchmorph.training.config import Data, Run, TrainingConfig
from patchmorph.training.gradients import CapturedStep, FlatGradients, Report, add_gradients
from patchmorph.training.subjects import find_subjects

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


def training(pattern: str, network: str) -> dict[str, float]:
    """Steps as `patchmorph train` does them, and the same step without compiler and graph."""
    config = TrainingConfig(
        model=ModelSpec(dense=NetworkSpec(name=network)),
        data=Data(images=[str(Path(pattern).resolve())]),
        run=Run(output="unused"),
    )
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    cohort = Cohort(find_subjects(config), config.model.spacings_mm, config.data, CUDA)
    model = PatchMorphModel(config.model).to(CUDA).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    gradients = FlatGradients(model)
    generator = torch.Generator().manual_seed(0)

    def draw() -> Draw:
        return Draw.sample(len(cohort), CHAINS, len(config.model.spacings_mm), 0.5, generator).to(CUDA)

    def eager(drawn: Draw) -> Report:
        return add_gradients(model, cohort, drawn, config)

    def step(add: Callable[[Draw], Report]) -> Callable[[], object]:
        def run() -> None:
            gradients.buffer.zero_()
            add(draw())
            gradients.finish(1, 1, config.optimization.clip)
            optimizer.step()

        return run

    figures: dict[str, float] = {"chains": CHAINS}
    plain = step(eager)
    seconds(plain, 3)
    figures["steps_per_second_eager"] = 10 / sum(seconds(plain, 10))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for part in filter(None, (model.affine, *model.dense)):
        part.compile()
    with compiling():
        fast = step(CapturedStep(eager, draw()))
    figures["seconds_to_compile"] = time.perf_counter() - began
    seconds(fast, 5)
    figures["steps_per_second"] = 60 / sum(seconds(fast, 60))
    figures["peak_reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=machine.DATA / "t1-labelled")
    parser.add_argument("--train", required=True)
    parser.add_argument("--networks", nargs="+", default=["unet"])
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()
    figures = {
        "registration": registration(arguments.data),
        "training": {network: training(arguments.train, network) for network in arguments.networks},
    }
    machine.write("gpu", figures, arguments.output)


if __name__ == "__main__":
    main()
