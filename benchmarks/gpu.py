"""Registration on a GPU: writes results/gpu.json.

    python benchmarks/gpu.py [--data FOLDER]

Seconds of one registration in Python, images on the GPU; how far the CUDA result (bf16 networks) is from the
CPU result.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=machine.DATA / "t1-labelled")
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()
    machine.write("gpu", {"registration": registration(arguments.data)}, arguments.output)


if __name__ == "__main__":
    main()
