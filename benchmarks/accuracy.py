"""Overlap after registration, structure by structure, for PatchMorph and for the tools it is compared with.

    python benchmarks/accuracy.py [--tools NAME ...] [--set t1-labelled|t1-tissue] [--pairs 01-02 ...]
        [--device auto|cpu|cuda] [--shared]

Registers the 20 ordered pairs of the labelled set (sub-01, 02, 04, 05, 06) or 8 ordered pairs of the tissue
set, and writes results/accuracy.csv: one row a data set, tool, device and pair, with the Dice of every
structure. Rows of other tools or pairs stay, so tools can be run at other times; results/accuracy.json has
the means. ``--shared`` says that the machine does something else, too: then no seconds are kept. Peers
(`PEERS`) run in environments of their own under ``.peers``, made on first use; their scripts lie in
`benchmarks/peers`. They get a folder with

- ``labels.nii``: the moving labels, and ``x.nii``, ``y.nii``, ``z.nii``: images on the moving grid that hold
  the voxels' own world coordinates (RAS+ mm);

and leave there each of these pulled to the fixed grid (``*_warped.nii``) and ``seconds.json``. So the whole
map of each tool is known on the fixed grid, and folding is measured alike for all.
"""

import argparse
import csv
import itertools
import json
import math
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import machine
import torch

from patchmorph import api
from patchmorph.evaluation import metrics
from patchmorph.evaluation.benchmark import ASEG, label_groups, merge_cortex
from patchmorph.evaluation.labels import load_labels
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image, save_image
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.jacobian import determinant_of_map
from patchmorph.transforms.resample import resample

ROOT = Path(__file__).parents[1]
TABLE = machine.RESULTS / "accuracy.csv"
KEYS = ("set", "tool", "device", "pair")
PEOPLE = {"t1-labelled": ("01", "02", "04", "05", "06"), "t1-tissue": ("01", "05", "08", "13")}
PASSES = 60
"""Of refinement, at most."""

OURS = {
    "patchmorph": ("t1-brain", 0),
    "patchmorph-refine": ("t1-brain", PASSES),
    "patchmorph-classical": ("none", PASSES),
}
"""Model and passes of refinement."""


class Peer(NamedTuple):
    """A tool in its own environment."""

    script: str
    packages: tuple[str, ...]
    arguments: tuple[str, ...] = ()


ANTS = ("antspyx==0.6.3",)
PEERS = {
    "greedy": Peer("run_greedy.py", ("picsl_greedy==1.4.0.3",)),
    "greedy-nmi": Peer("run_greedy.py", ("picsl_greedy==1.4.0.3",), ("NMI",)),
    "ants-syn": Peer("run_ants.py", ANTS, ("SyN",)),
    "ants-syn-quick": Peer("run_ants.py", ANTS, ("antsRegistrationSyNQuick[s]",)),
    "fireants": Peer("run_fireants.py", ("torch==2.13.0", "fireants==1.5.0"), ("DEVICE",)),
}


def mapped_points(transform: Transform, grid: Grid) -> torch.Tensor:
    """Where the points of ``grid`` go, RAS+ mm, ``[1, X, Y, Z, 3]``."""
    return grid.points_world() + DisplacementField.tabulate(transform, grid).displacement.movedim(1, -1)


def pairs(folder: Path, people: tuple[str, ...] = PEOPLE["t1-labelled"]) -> list[PairPaths]:
    def find(person: str, kind: str) -> Path:
        return next(folder.glob(f"sub-{person}_{kind}.nii*"))

    return [
        PairPaths(find(a, "T1w"), find(b, "T1w"), find(a, "labels"), find(b, "labels"))
        for a, b in itertools.permutations(people, 2)
    ]


def name(pair: PairPaths) -> str:
    """Such as 01-02: fixed and moving."""
    return f"{pair.fixed.name[4:6]}-{pair.moving.name[4:6]}"


def python_of(tool: str) -> Path:
    """The Python of a peer's environment."""
    peer = PEERS[tool]
    folder = ROOT / ".peers" / peer.packages[-1]
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *peer.packages], check=True)
    return python


def run_peer(tool: str, pair: PairPaths, device: str) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Warped labels and mapped points on the fixed grid, and seconds."""
    peer = PEERS[tool]
    assert pair.moving_labels
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        labels = load_labels(pair.moving_labels)
        save_image(labels, folder / "labels.nii")
        for axis, letter in enumerate("xyz"):
            save_image(
                Image(labels.grid.points_world()[None, ..., axis], labels.grid), folder / f"{letter}.nii"
            )
        arguments = [argument.replace("DEVICE", device) for argument in peer.arguments]
        script = ROOT / "benchmarks" / "peers" / peer.script
        command = [python_of(tool), script, pair.fixed, pair.moving, folder, *arguments]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
        warped = load_labels(folder / "labels_warped.nii").data[0, 0].long()
        mapped = [load_image(folder / f"{letter}_warped.nii").data[0, 0].float() for letter in "xyz"]
        return warped, torch.stack(mapped, -1)[None], json.loads((folder / "seconds.json").read_text())


def run_ours(
    models: dict[str, Any], tool: str, pair: PairPaths, device: str
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """The same for PatchMorph."""
    model, passes = OURS[tool]
    if model not in models:
        models[model] = api.load_model(model, device) if model != "none" else None
    fixed, moving = load_image(pair.fixed), load_image(pair.moving)
    assert pair.moving_labels
    began = time.perf_counter()
    found = api.register(fixed, moving, models[model] or "none", device, refine=passes)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    warped = found.warped(load_labels(pair.moving_labels), "nearest").data[0, 0].long()
    mapped = mapped_points(found.transform, found.fixed.grid)
    return warped.cpu(), mapped.cpu(), seconds


def measure(
    grid: Grid, fixed: torch.Tensor, warped: torch.Tensor, mapped: torch.Tensor, data: str
) -> dict[str, float]:
    """Dice of every structure, their means, and folding inside the fixed labels."""
    determinant = determinant_of_map(mapped[0], grid)
    inside = fixed[:-1, :-1, :-1] > 0
    row = label_groups(fixed, warped) | {
        "folding_percent": 100 * metrics.folding_fraction(determinant, inside),
        "sd_log_jacobian": metrics.sd_log_jacobian(determinant, inside),
    }
    structures: list[int] = [*ASEG] if data == "t1-labelled" else [1, 2, 3]
    if data == "t1-labelled":
        fixed, warped = merge_cortex(fixed), merge_cortex(warped)
    return row | {f"dice_{label}": value for label, value in metrics.dice(fixed, warped, structures).items()}


def read_table(path: Path = TABLE) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_row(row: dict[str, Any], path: Path = TABLE, keys: tuple[str, ...] = KEYS) -> None:
    """Put a row in the place of the one for the same tool and pair."""
    rows = [old for old in read_table(path) if any(old[key] != row[key] for key in keys)]
    rows.append(
        {
            key: "" if value is None else f"{value:.5g}" if isinstance(value, float) else value
            for key, value in row.items()
        }
    )
    rows.sort(key=lambda row: tuple(row[key] for key in keys))
    columns = list(dict.fromkeys(column for row in rows for column in row))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def summarize(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
    """Means of every figure over the pairs that have it, a data set, tool and device."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in KEYS[:3]), []).append(row)
    summary = []
    for group, members in sorted(groups.items()):
        columns = [column for column in members[0] if column not in KEYS]
        values = {column: [float(row[column]) for row in members if row[column]] for column in columns}
        means = {column: fmean(numbers) for column, numbers in values.items() if numbers}
        summary.append(dict(zip(KEYS, group, strict=False)) | {"pairs": len(members), "mean": means})
    return summary


def write_summary(device: str, path: Path) -> None:
    """Write the means of the table at ``path`` beside it; machines stay known by device."""
    file = path.with_suffix(".json")
    machines = json.loads(file.read_text(encoding="utf-8"))["machines"] if file.exists() else {}
    summary = {"machines": machines | {device: machine.describe()}, "groups": summarize(read_table(path))}
    file.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--tools", nargs="*", default=["patchmorph", "patchmorph-refine"], choices=[*OURS, *PEERS]
    )
    parser.add_argument("--set", default="t1-labelled", choices=list(PEOPLE))
    parser.add_argument("--pairs", nargs="*", help="such as 01-02 (fixed, moving); without it, all")
    parser.add_argument("--data", type=Path, default=machine.DATA)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--shared", action="store_true", help="keep no seconds")
    parser.add_argument("--output", type=Path, default=TABLE)
    arguments = parser.parse_args()
    device, models = api.choose_device(arguments.device).type, {}
    for pair in chosen(arguments):
        assert pair.fixed_labels
        labels = load_labels(pair.fixed_labels)
        grid = load_image(pair.fixed).grid
        fixed = resample(labels, AffineTransform.identity(), grid, "nearest").data[0, 0].long()
        for tool in arguments.tools:
            run: Callable[..., tuple] = run_peer if tool in PEERS else lambda *a: run_ours(models, *a)
            where = "cpu" if tool in ("greedy", "greedy-nmi", "ants-syn", "ants-syn-quick") else device
            warped, mapped, seconds = run(tool, pair, where)
            row = measure(grid, fixed, warped, mapped, arguments.set)
            what = {"set": arguments.set, "tool": tool, "device": where, "pair": name(pair)}
            write_row(what | {"seconds": None if arguments.shared else seconds} | row, arguments.output)
            shown = " ".join(
                f"{row.get(k, math.nan):.4f}" for k in ("dice", "dice_aseg", "dice_cortex", "folding_percent")
            )
            print(f"{name(pair)} {tool:20s} {shown} {seconds:.1f} s", flush=True)
    write_summary(device, arguments.output)


def chosen(arguments: argparse.Namespace) -> list[PairPaths]:
    found = pairs(arguments.data / arguments.set, PEOPLE[arguments.set])
    if arguments.set == "t1-tissue":
        found = [pair for k, pair in enumerate(found) if k % 3 != 2]  # 8 of 12: every person on both sides
    return [pair for pair in found if arguments.pairs is None or name(pair) in arguments.pairs]


if __name__ == "__main__":
    main()
