"""Random kills of `batch`, of its workers, of blockwise `apply` and of `train`: writes results/kills.json.

Cases of other runs stay in that file.

    python benchmarks/kills.py [--cases batch workers apply train] [--kills N] [--seed N]

Each case runs a command to its end, undisturbed. Then the same command runs in new folders, and is ended with
SIGKILL at a random time after `QUIET` of the undisturbed seconds, and run again, with kills at random times,
until it ends well; until there were as many kills as asked for. A kill counts if the run had changed a file
of the output before it; those that came earlier are given too, and make the next ones wait longer. In the
case ``workers`` it is a process of `batch` that is killed instead. A folder is lost if a run that nobody
killed fails, if any file differs in a byte from that of the undisturbed run, if one is missing, or if one is
left over; what states times or paths is left out. Images and networks are synthetic and small.
"""

import argparse
import contextlib
import csv
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import machine
import psutil
import torch
import yaml

from patchmorph.catalogue import save_model
from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.io.transforms.formats import save_transform
from patchmorph.networks.model import ModelSpec, PatchMorphModel
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.velocity import VelocityField

KILLS = {"batch": 20, "workers": 20, "apply": 20, "train": 50}
QUIET = 0.2
"""Share of the seconds of an undisturbed run in which nothing is killed: Python loads libraries."""
LATER = 1.3
"""Factor of these seconds after a kill that came too early: other programs have slowed the machine."""
TIMED = {"summary.json", "patchmorph.log", "log.jsonl", "index.html", "config.json"}
"""Files that state times, or where they are."""
EVENTS = "tensorboard"
"""Folder of files whose names state times: each run adds one."""
TABLE, TIMES = "cohort.csv", ("seconds",)
PAIRS = 3
SIDE = 300
"""Voxels along each side of the image that `apply` writes."""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
CONFIG = {
    "model": {
        "patch_size": 16,
        "spacings_mm": [12.0, 6.0],
        "affine": {"name": "affine-encoder", "options": {"channels": [4, 8], "hidden": 8}},
        "dense": {"name": "unet", "options": {"encoder": [4, 8], "decoder": [8, 4]}},
    },
    "data": {"images": ["moving*.nii.gz"]},
    "optimization": {"steps": 80, "batch": 1},
    "run": {"output": "output", "log_every": 10, "checkpoint_every": 5},
}


@dataclass(frozen=True)
class Case:
    """A command in a folder of inputs, which writes into its folder ``output``.

    Attributes:
        arguments: of `patchmorph`, by the folder.
        victim: the process that is killed, by that of the command; ``None``: there is none now.
    """

    arguments: Callable[[Path], list[str]]
    victim: Callable[[int, random.Random], int | None] = lambda process, rng: process


def brain(shift: float, shape: tuple[int, int, int] = (30, 34, 28), spacing: float = 5.0) -> Image:
    """An ellipsoid with structure inside, on a grid of its own."""
    grid = Grid.centered(shape, spacing, torch.tensor([[shift, 0, 0]]))
    x, y, z = grid.points_world()[0].unbind(-1)
    inside = torch.sigmoid((1 - ((x / 65) ** 2 + (y / 80) ** 2 + (z / 60) ** 2)) * 25)
    folds = torch.sin(x / 7) * torch.sin(y / 8) * torch.sin(z / 6)
    return Image((255 * inside * (0.6 + 0.3 * folds)).to(torch.uint8)[None, None], grid)


def write_inputs(folder: Path) -> None:
    """What the commands of all cases read."""
    names = ["fixed", *(f"moving{k}" for k in range(PAIRS))]
    for k, name in enumerate(names):
        image = brain(2.0 * k)
        save_image(image, folder / f"{name}.nii.gz")
        save_image(Image((image.data > 25).to(torch.uint8), image.grid), folder / f"{name}_mask.nii.gz")
    rows = [f"fixed.nii.gz,{name}.nii.gz,fixed_mask.nii.gz,{name}_mask.nii.gz" for name in names[1:]]
    table = "\n".join(["fixed,moving,fixed_mask,moving_mask", *rows, ""])
    (folder / "pairs.csv").write_text(table, encoding="utf-8")
    save_image(brain(3.0, (96, 96, 96), 2.0), folder / "moving.ome.zarr")
    save_image(brain(0.0, (SIDE, SIDE, SIDE), 180 / SIDE), folder / "reference.nii.gz")
    coarse = torch.randn(1, 3, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    velocity = torch.nn.functional.interpolate(6 * coarse, (24, 24, 24), mode="trilinear")
    save_transform(
        VelocityField(velocity, Grid.centered((24, 24, 24), 8.0, torch.zeros(1, 3))),
        folder / "map.safetensors",
    )
    torch.manual_seed(0)
    save_model(PatchMorphModel(ModelSpec.model_validate(CONFIG["model"])), folder / "model.safetensors")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")


def batch(folder: Path, workers: int = 2) -> list[str]:
    options = [
        "--workers",
        str(workers),
        "--transform",
        "rigid",
        "--initial-transform",
        "header",
        "--device",
        "cpu",
    ]
    options += ["--model", str(folder / "model.safetensors"), "--save", "warped,itk,transform"]
    return ["batch", str(folder / "pairs.csv"), "-o", str(folder / "output"), *options]


def apply(folder: Path) -> list[str]:
    files = [str(folder / name) for name in ("map.safetensors", "moving.ome.zarr")]
    output = folder / "output" / "warped.ome.zarr"
    return ["apply", *files, "--reference", str(folder / "reference.nii.gz"), "-o", str(output)]


def train(folder: Path) -> list[str]:
    started = (folder / "output" / "checkpoint.safetensors").exists()
    return ["train", str(folder / "config.yaml"), "--device", "cpu", *(["--resume"] if started else [])]


def worker_of(process: int, rng: random.Random) -> int | None:
    """A worker of `batch`, which starts them as processes of Python's multiprocessing."""
    children = psutil.Process(process).children()
    workers = [child.pid for child in children if any("spawn_main" in part for part in child.cmdline())]
    return rng.choice(workers) if workers else None


CASES = {
    "batch": Case(batch),
    "workers": Case(batch, worker_of),
    "apply": Case(apply),
    "train": Case(train),
}


def contents(folder: Path) -> dict[str, str]:
    """A digest of each file, by its path; the table of a cohort without times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            found[name] = "folder"
        elif path.name == TABLE:
            with path.open(newline="", encoding="utf-8") as file:
                rows = [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]
            found[name] = str(sorted(rows, key=str)).replace(str(folder.parent), "")
        else:
            timed = path.name in TIMED
            found[name] = "timed" if timed else hashlib.sha256(path.read_bytes()).hexdigest()
    return {name: digest for name, digest in found.items() if EVENTS not in name}


def ran(case: Case, folder: Path, delays: list[float], rng: random.Random) -> tuple[int, int, str]:
    """Run the command once; its exit status, the number of kills, and what it said."""
    command = [sys.executable, "-m", "patchmorph", *case.arguments(folder)]
    said = folder / "said.txt"
    kills = 0
    with said.open("wb") as file:
        process = subprocess.Popen(command, env=ENVIRONMENT, stdout=file, stderr=file)
        for delay in delays:
            try:
                process.wait(delay)
                break
            except subprocess.TimeoutExpired:
                victim = case.victim(process.pid, rng)
                if victim is not None and process.poll() is None:
                    os.kill(victim, signal.SIGKILL)
                    kills += 1
        status = process.wait()
    return status, kills, said.read_text(encoding="utf-8", errors="replace")


def states(folder: Path) -> dict[Path, int]:
    """When each file of a folder was last written."""
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            found[path] = path.stat().st_mtime_ns
    return found


def measured(name: str, wanted: int, seed: int, work: Path, inputs: Path) -> dict[str, object]:
    """Kills, runs, folders, and what was lost."""
    case, rng = CASES[name], random.Random(f"{name} {seed}")

    def fresh(label: str) -> Path:
        folder = work / name / label / "job"
        folder.parent.mkdir(parents=True)
        subprocess.run(["cp", "-r", str(inputs), str(folder)], check=True)
        (folder / "output").mkdir()
        return folder

    folder = fresh("undisturbed")
    began = time.perf_counter()
    status, _, said = ran(case, folder, [], rng)
    whole = time.perf_counter() - began
    if status:
        raise RuntimeError(f"{name} must end well, got status {status}: {said}")
    expected, seconds = contents(folder / "output"), whole
    kills = early = runs = folders = 0
    lost: list[str] = []
    while kills < wanted:
        folder, folders = fresh(str(folders)), folders + 1
        while True:
            count = wanted - kills if name == "workers" else min(1, wanted - kills)
            delays = [rng.uniform(QUIET, 1) * seconds for _ in range(count)]
            before = states(folder / "output")
            status, killed, said = ran(case, folder, delays, rng)
            runs += 1
            if killed == 1 and before == states(folder / "output"):
                early, seconds = early + 1, LATER * seconds
            else:
                kills += killed
            if not killed or (status == 0 and name == "workers"):
                break
        differences = compared(expected, contents(folder / "output"))
        if status or differences:
            lost.append(f"{folder.parent.name}: status {status}, {differences[:6]}, said: {said[-600:]}")
            print(lost[-1], flush=True)
        print(f"{name}: {kills} kills, {runs} runs, {folders} folders, {len(lost)} lost", flush=True)
        subprocess.run(["rm", "-rf", str(folder.parent)], check=True)
    return {
        "seed": seed,
        "kills": kills,
        "kills_before_any_output": early,
        "runs": runs,
        "folders": folders,
        "lost": lost,
        "undisturbed_seconds": round(whole, 1),
        "files_compared": sum(digest not in ("timed", "folder") for digest in expected.values()),
    }


def compared(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """What differs."""
    lacking = [f"no {name}" for name in expected.keys() - found.keys()]
    more = [f"left {name}" for name in found.keys() - expected.keys()]
    return (
        lacking
        + more
        + [f"other {name}" for name in expected if found.get(name, "") not in ("", expected[name])]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="*", default=[*CASES], choices=[*CASES])
    parser.add_argument("--kills", type=int, help="of each case, instead of 20, and 50 of train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()
    lost = False
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs"
        inputs.mkdir()
        write_inputs(inputs)
        for name in arguments.cases:
            wanted = arguments.kills or KILLS[name]
            found = measured(name, wanted, arguments.seed, Path(folder), inputs)
            path = arguments.output / "kills.json"
            before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            cases = {case: before[case] for case in CASES if case in before}
            machine.write("kills", {**cases, name: found}, arguments.output)
            lost = lost or bool(found["lost"])
    if lost:
        raise SystemExit("something was lost")


if __name__ == "__main__":
    main()
