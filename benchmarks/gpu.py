"""Registration on a GPU: writes results/gpu.json.

    python benchmarks/gpu.py [--data FOLDER]

Seconds and memory of one registration in Python, images on the GPU, with and without refinement, on the
images' own grids and on 256³ voxels; how far the CUDA result (bf16 networks) is from the CPU result.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import torch

from patchmorph import api
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image
from patchmorph.networks.model import PatchMorphModel
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.resample import resample

CUDA = torch.device("cuda")
PASSES = 60
"""Of refinement, at most, as in `accuracy.py`."""
WARM_UP = 6
"""Registrations before the timed ones: networks are recorded during them."""


def seconds(function: Callable[[], object], runs: int) -> list[float]:
    times = []
    for _ in range(runs):
        torch.cuda.synchronize()
        began = time.perf_counter()
        function()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return times


def on_cube(image: Image, side: int = 256) -> Image:
    """The same image on a grid of ``side``³ voxels around it."""
    extent = max(n * mm for n, mm in zip(image.grid.shape, image.grid.spacing_mm[0].tolist(), strict=True))
    grid = Grid.centered((side, side, side), extent / side, image.grid.center_world)
    return resample(image, AffineTransform.identity(image.grid.device), grid)


def cost(fixed: Image, moving: Image, model: PatchMorphModel, refine: int, runs: int) -> dict[str, float]:
    """Median seconds and peak memory of registrations, the images included."""
    seconds(lambda: api.register(fixed, moving, model, refine=refine), 2 if refine else WARM_UP)
    torch.cuda.reset_peak_memory_stats()
    times = seconds(lambda: api.register(fixed, moving, model, refine=refine), runs)
    return {
        "seconds_median": statistics.median(times),
        "peak_allocated_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def registration(folder: Path) -> dict[str, Any]:
    fixed, moving = (load_image(next(folder.glob(f"sub-0{k}_T1w.nii*"))) for k in (1, 2))
    model = api.load_model(api.SAME_CONTRAST, "cuda")
    on_gpu = fixed.to(CUDA), moving.to(CUDA)
    figures: dict[str, Any] = {
        "network": cost(*on_gpu, model, 0, 10),
        "refined": cost(*on_gpu, model, PASSES, 3),
    }
    points = fixed.grid.points_world()[fixed.data[:, 0] > 0][None]
    on_cuda = api.register(*on_gpu, model).transform(points.to(CUDA)).cpu()
    on_cpu = api.register(fixed, moving, device="cpu").transform(points)
    difference = (on_cuda - on_cpu).norm(dim=-1)
    on_gpu = on_cube(on_gpu[0]), on_cube(on_gpu[1])
    return figures | {
        "network_256": cost(*on_gpu, model, 0, 5),
        "refined_256": cost(*on_gpu, model, PASSES, 2),
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
