"""PatchMorph and other tools on the same pairs, with the same scoring, on the same machine.

    python benchmarks/compare.py [--tools NAME ...] [--set t1-labelled|t1-tissue] [--grids]
        [--pairs 01-02 ...] [--jobs N] [--until SECONDS] [--limit SECONDS] [--device cpu|cuda] [--again]
        [--shared] [--maps FOLDER] [--machine NAME] [--models FOLDER]

Every tool (`tools.py`) registers every pair in a process of its own, on two cores that it has for itself;
``--jobs`` pairs at a time. Tools that take over 5 minutes a pair get the 6 pairs of `SIX`. Rows go into
results/peers.csv one by one, and a run goes on where the last one stopped; after ``--until`` seconds what
runs is stopped and leaves no row. A tool that fails, or takes longer than ``--limit``, leaves a row that says
so in ``failed``. ``--grids`` brings each moving image onto an oblique grid of other spacings and orientation
first. ``--maps`` keeps the maps; where a pair is registered in both directions, the row of the later one has
the distance of ψ(φ(x)) from x, for the maps φ and ψ of both. ``--machine`` names the machine, whose seconds
compare with each other and with no other's. ``--shared`` says that the machine does something else, too: then
no seconds are kept. ``--models`` is the folder of the models that `full_volume.py` trained; without it their
tools are left out.
"""

import argparse
import math
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import Queue
from threading import Lock
from typing import Any, NamedTuple

import accuracy
import machine
import torch
from tools import DEVICE, TOOLS, Outcome, ToolError, python_of, run, stop

from patchmorph.evaluation import metrics
from patchmorph.evaluation.labels import load_labels
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image, save_image
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.resample import resample

TABLE = machine.RESULTS / "peers.csv"
SIX = ("01-02", "02-04", "04-05", "05-06", "06-01", "02-01")
"""Every person is fixed and moving; one pair comes in both directions."""
KEYS = (*accuracy.KEYS, "machine")
CORES = 2
OTHER_SPACINGS_MM = (0.9, 1.3, 2.0)
DEGREES = 15.0
"""Of the oblique grid, about its last axis."""


class Task(NamedTuple):
    tool: str
    pair: PairPaths
    device: str


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """Pair by pair, so that a run that is stopped has something of every tool."""
    has_row = {
        tuple(row[key] for key in KEYS)
        for row in accuracy.read_table(arguments.output)
        if row.get("peak_gib") or row.get("failed")
    }
    for pair in accuracy.chosen(arguments):
        name = accuracy.name(pair)
        for tool in arguments.tools:
            task = Task(tool, pair, arguments.device if DEVICE in TOOLS[tool].arguments else "cpu")
            if not arguments.pairs and TOOLS[tool].is_slow and name not in SIX:
                continue
            if arguments.again or tuple(key_of(task, arguments).values()) not in has_row:
                yield task


def key_of(task: Task, arguments: argparse.Namespace) -> dict[str, str]:
    data = f"{arguments.set}-grids" if arguments.grids else arguments.set
    values = (data, task.tool, task.device, accuracy.name(task.pair), arguments.machine)
    return dict(zip(KEYS, values, strict=True))


def on_other_grid(moving: Path, folder: Path) -> Path:
    """The moving image on an oblique grid of other spacings, RAS, that covers it."""
    image = load_image(moving)
    angle = torch.tensor(math.radians(DEGREES), dtype=torch.float64)
    turn = torch.eye(3, dtype=torch.float64)
    turn[:2, :2] = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
    spacing = torch.tensor(OTHER_SPACINGS_MM, dtype=torch.float64)
    corners = image.grid.corners_world()[0].double() @ turn  # along the axes of the new grid
    low, high = corners.amin(0), corners.amax(0)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = turn * spacing
    matrix[:3, 3] = turn @ (low + spacing / 2)
    x, y, z = ((high - low) / spacing).ceil().int().tolist()
    moved = resample(image, AffineTransform.identity(), Grid((x, y, z), matrix[None]), "linear")
    save_image(moved, folder / moving.name)
    return folder / moving.name


def inverse_error_mm(outcome: Outcome, inverse: Image | None, grid: Grid, mask: torch.Tensor) -> float | None:
    """Mean distance of ψ(φ(x)) from x in ``mask``, where φ(x) lies in the moving image.

    Args:
        inverse: ψ, an image on the moving grid that holds coordinates of the fixed world.
    """
    if inverse is None:
        return None
    points, mapped = grid.points_world()[0][mask], outcome.mapped[0][mask]
    moving = inverse.grid
    voxel = moving.to_voxel(mapped[None])[0]
    inside = ((voxel >= 0) & (voxel <= torch.tensor(moving.shape) - 1)).all(-1)
    found = inverse.sample(mapped[None, inside], min(moving.spacing_mm[0].tolist()))
    return float(metrics.tre_mm(found[0].movedim(0, -1), points[inside].float()).double().mean())


def map_of_exchanged(task: Task, mapped: torch.Tensor, folder: Path | None) -> Image | None:
    """The map of the run with the images exchanged, if ``folder`` has it; ``mapped`` is kept there."""
    if folder is None:
        return None
    fixed, moving = accuracy.name(task.pair).split("-")
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{task.tool}-{fixed}-{moving}.pt"
    torch.save(mapped, kept.with_suffix(".part"))
    kept.with_suffix(".part").replace(kept)
    other = folder / f"{task.tool}-{moving}-{fixed}.pt"
    if not other.exists():
        return None
    return Image(torch.load(other).movedim(-1, 1), load_image(task.pair.moving).grid)


def score(task: Task, cores: list[int], limit: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """The row of a task, without its key; `ToolError` where the tool fails."""
    pair = task.pair
    with tempfile.TemporaryDirectory() as work:
        if arguments.grids:
            pair = replace(pair, moving=on_other_grid(pair.moving, Path(work)))
        outcome = run(task.tool, pair, task.device, cores, limit, arguments.models)
    assert pair.fixed_labels
    grid = load_image(pair.fixed).grid
    fixed = (
        resample(load_labels(pair.fixed_labels), AffineTransform.identity(), grid, "nearest")
        .data[0, 0]
        .long()
    )
    exchanged = map_of_exchanged(task, outcome.mapped, arguments.maps)
    return {
        "seconds": None if arguments.shared else outcome.seconds,
        "peak_gib": outcome.peak_gib,
        "inverse_mm": inverse_error_mm(outcome, outcome.inverse, grid, fixed > 0),
        "both_ways_mm": inverse_error_mm(outcome, exchanged, grid, fixed > 0),
        **accuracy.measure(grid, fixed, outcome.warped, outcome.mapped, arguments.set),
    }


class Runner:
    """Runs tasks, as many at a time as there are sets of cores, until the time is over."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.ends = time.monotonic() + arguments.until
        self.writing = Lock()
        self.cores: Queue[list[int]] = Queue()
        available = sorted(os.sched_getaffinity(0))
        for job in range(arguments.jobs):
            self.cores.put(available[job * CORES : (job + 1) * CORES])

    def __call__(self, task: Task) -> None:
        """Write the row of a task, unless the time is over before it ends."""
        cores = self.cores.get()
        left = self.ends - time.monotonic()
        try:
            if left > 0:
                self._record(task, score(task, cores, min(left, self.arguments.limit), self.arguments))
        except ToolError as error:
            if time.monotonic() < self.ends:
                self._record(task, {"failed": str(error)})
        finally:
            self.cores.put(cores)

    def _record(self, task: Task, row: dict[str, Any]) -> None:
        with self.writing:
            accuracy.write_row(key_of(task, self.arguments) | row, self.arguments.output, KEYS)
        figures = ("dice_aseg", "dice_cortex", "folding_percent", "inverse_mm", "seconds", "peak_gib")
        shown = " ".join(f"{figure} {row[figure]:.4g}" for figure in figures if row.get(figure) is not None)
        print(accuracy.name(task.pair), task.tool, row.get("failed") or shown, flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tools", nargs="*", choices=list(TOOLS), help="without it, all that can run")
    parser.add_argument("--set", default="t1-labelled", choices=list(accuracy.PEOPLE))
    parser.add_argument("--grids", action="store_true", help="moving images on other grids")
    parser.add_argument("--pairs", nargs="*", help="such as 01-02 (fixed, moving); without it, all")
    parser.add_argument("--data", type=Path, default=machine.DATA)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--until", type=float, default=math.inf, help="seconds after which all is stopped")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds that a pair may take")
    parser.add_argument("--again", action="store_true", help="also what has a row")
    parser.add_argument("--maps", type=Path, help="folder that keeps the maps")
    parser.add_argument("--machine", default=machine.label())
    parser.add_argument("--shared", action="store_true", help="keep no seconds")
    parser.add_argument("--models", type=Path, help="folder of models that full_volume.py trained")
    parser.add_argument("--output", type=Path, default=TABLE)
    arguments = parser.parse_args()
    can_run = [name for name, tool in TOOLS.items() if arguments.models or not tool.needs_models]
    arguments.tools = can_run if arguments.tools is None else arguments.tools
    if not set(arguments.tools) <= set(can_run):
        parser.error("--models must be given for tools that register by models that are not packaged")
    return arguments


def main() -> None:
    arguments = parsed()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    waiting = list(tasks(arguments))
    for tool in dict.fromkeys(task.tool for task in waiting):
        python_of(TOOLS[tool].environment)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(Runner(arguments), waiting))
    accuracy.write_summary(arguments.machine, arguments.output, KEYS)


if __name__ == "__main__":
    main()
