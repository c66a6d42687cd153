"""Registration on a GPU: writes results/gpu-packaged.json; gpu.json is of the U-Nets packaged before.

    python benchmarks/gpu.py [--data FOLDER] [--parts network command refined cube]

Seconds and memory of one registration in Python, images on the GPU: of images as they were loaded, of the
same images again (their levels and windows are kept), refined, and on 256³ voxels. How far the CUDA result
(bf16 networks) is from the CPU result. Seconds of the whole command, after one run that compiles the modules.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
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
from patchmorph.registration.options import BEST, PRESETS
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.resample import resample

CUDA = torch.device("cuda")
PASSES = PRESETS[BEST].passes
"""Of refinement, as in `accuracy.py`."""
WARM_UP = 6
"""Registrations before the timed ones: networks are recorded during them."""
COMMAND = (sys.executable, "-m", "patchmorph", "register")
PARTS = ("network", "command", "refined", "cube")
NOT_COMPILED = "PYTHONDONTWRITEBYTECODE"
"""As in `daily.py`."""


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
    return resample(image, AffineTransform.identity(), grid)


def as_loaded(image: Image) -> Image:
    """The image without the levels and windows that were found before."""
    return Image(image.data, image.grid, image.name)


def cost(function: Callable[[], object], runs: int, before: int = WARM_UP) -> dict[str, float]:
    """Median and smallest seconds and peak memory of registrations, the images included."""
    seconds(function, before)
    torch.cuda.reset_peak_memory_stats()
    times = seconds(function, runs)
    return {
        "seconds_median": statistics.median(times),
        "seconds_least": min(times),
        "peak_allocated_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def command(paths: list[Path], runs: int = 5) -> dict[str, Any]:
    """Seconds of ``patchmorph register``, one process after the other."""
    environment = {key: value for key, value in os.environ.items() if key != NOT_COMPILED}
    times = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs + 1):
            words = [*COMMAND, *paths, "-o", folder, "--overwrite", "-q"]
            began = time.perf_counter()
            subprocess.run([str(word) for word in words], env=environment, check=True)
            times.append(time.perf_counter() - began)
    return {"seconds_median": statistics.median(times[1:]), "seconds_of_runs": times[1:]}


def registration(folder: Path, parts: list[str]) -> dict[str, Any]:
    paths = [next(folder.glob(f"sub-0{k}_T1w.nii*")) for k in (1, 2)]
    fixed, moving = map(load_image, paths)
    model = api.load_model(api.SAME_CONTRAST, "cuda")
    on_gpu = fixed.to(CUDA), moving.to(CUDA)
    figures: dict[str, Any] = {}
    if "network" in parts:
        figures["network"] = cost(lambda: api.register(as_loaded(on_gpu[0]), as_loaded(on_gpu[1]), model), 15)
        figures["network_again"] = cost(lambda: api.register(*on_gpu, model), 15)
        figures |= agreement(on_gpu, (fixed, moving), model)
    if "command" in parts:
        figures["command"] = command(paths)
    if "refined" in parts:
        figures["refined"] = cost(lambda: api.register(*on_gpu, model, refine=PASSES), 3, 2)
    if "cube" in parts:
        cubes = on_cube(on_gpu[0]), on_cube(on_gpu[1])
        figures["network_256"] = cost(
            lambda: api.register(as_loaded(cubes[0]), as_loaded(cubes[1]), model), 5
        )
        figures["refined_256"] = cost(lambda: api.register(*cubes, model, refine=PASSES), 2, 1)
    return figures


def agreement(
    on_gpu: tuple[Image, Image], images: tuple[Image, Image], model: PatchMorphModel
) -> dict[str, float]:
    """Distances between where CUDA and the CPU take the voxels of the brain."""
    points = images[0].grid.points_world()[images[0].data[:, 0] > 0][None]
    on_cuda = api.register(*on_gpu, model).transform(points.to(CUDA)).cpu()
    difference = (on_cuda - api.register(*images, device="cpu").transform(points)).norm(dim=-1)
    return {
        "cuda_against_cpu_mm_mean": float(difference.mean()),
        "cuda_against_cpu_mm_99th_percentile": float(difference.quantile(0.99)),
        "cuda_against_cpu_mm_largest": float(difference.max()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=machine.DATA / "t1-labelled")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()
    machine.write(
        "gpu-packaged", {"registration": registration(arguments.data, arguments.parts)}, arguments.output
    )


if __name__ == "__main__":
    main()
