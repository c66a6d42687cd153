"""Whether memory grows over many registrations in one process: writes results/leaks.json.

    OMP_NUM_THREADS=1 python benchmarks/leaks.py [--count 1000] [--warm-up 50] [--minutes N]

Pairs of small images are registered one after the other, each with all its result files. The resident memory
after the first ones, when libraries and caches have what they keep, is compared with that after the last.
"""

import argparse
import gc
import math
import os
import tempfile
import time
from pathlib import Path

import machine
import torch
from phantom import SEMI_AXES_MM

from patchmorph import catalogue
from patchmorph.api import Method
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.jobs import RegistrationRequest, register_files
from patchmorph.networks.model import ModelSpec, PatchMorphModel
from patchmorph.spatial.grid import Grid, cube

SIDE, SPACING_MM = 24, 7.0
MODEL = {
    "patch_size": 16,
    "spacings_mm": [12.0],
    "affine": {"name": "affine-encoder", "options": {"channels": [4, 8], "hidden": 8}},
    "dense": {"name": "unet", "options": {"encoder": [4, 8], "decoder": [8, 4]}},
}
"""Small networks that nobody trained: what they answer does not matter here."""
PAIRS = 4
"""Different pairs, which are taken in turn."""


def resident_mib() -> float:
    """Resident memory of this process, without what waits for the collection of garbage."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def make_image(seed: int) -> Image:
    """An ellipsoid of smooth noise, a little larger or smaller with each seed."""
    grid = Grid.centered(cube(SIDE), SPACING_MM, torch.zeros(1, 3))
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 1, 6, 6, 6, generator=generator)
    texture = torch.nn.functional.interpolate(noise, size=grid.shape, mode="trilinear")
    axes = torch.tensor(SEMI_AXES_MM) * (1 + 0.02 * seed)
    inside = (grid.points_world() / axes).norm(dim=-1)[:, None] < 1
    return Image(torch.where(inside, 0.3 + 0.7 * texture, 0), grid)


def register_all(folder: Path, count: int, warm_up: int, minutes: float) -> dict[str, float | int]:
    """Register ``count`` pairs after ``warm_up`` ones, or as many as end within the minutes."""
    torch.manual_seed(0)
    model = folder / "model.safetensors"
    catalogue.save_model(PatchMorphModel(ModelSpec.model_validate(MODEL)), model)
    for seed in range(2 * PAIRS):
        save_image(make_image(seed), folder / f"{seed}.nii.gz")
    method = Method(model=str(model), device="cpu", initial_transform="centers")
    before, done, began = 0.0, 0, time.perf_counter()
    for number in range(warm_up + count):
        if number == warm_up:
            before = resident_mib()
        pair = number % PAIRS
        paths = PairPaths(folder / f"{2 * pair}.nii.gz", folder / f"{2 * pair + 1}.nii.gz")
        register_files(RegistrationRequest(paths, folder / "out", method, overwrite=True))
        done = number + 1
        if number >= warm_up and time.perf_counter() - began > 60 * minutes:
            break
    after = resident_mib()
    return {
        "registrations": done - warm_up,
        "warm_up": warm_up,
        "mib_after_warm_up": round(before, 1),
        "mib_at_the_end": round(after, 1),
        "growth_mib": round(after - before, 1),
        "seconds_each": round((time.perf_counter() - began) / done, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--warm-up", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=math.inf, help="at most")
    parser.add_argument("--output", type=Path, default=machine.RESULTS, help="folder of leaks.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = register_all(Path(folder), given.count, given.warm_up, given.minutes)
    machine.write("leaks", figures, given.output)


if __name__ == "__main__":
    main()
