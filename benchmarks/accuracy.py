"""Overlap after registration, structure by structure, and the scoring of all tools that are compared.

    python benchmarks/accuracy.py [--tools NAME ...] [--set t1-labelled|t1-tissue] [--pairs 01-02 ...]
        [--device auto|cpu|cuda] [--shared]

Registers the 20 ordered pairs of the labelled set (sub-01, 02, 04, 05, 06) or 8 ordered pairs of the tissue
set in one process, and writes results/accuracy.csv: one row a data set, tool, device and pair, with the Dice
of every structure. Rows of other tools or pairs stay, so tools can be run at other times;
results/accuracy.json has the means. ``--shared`` says that the machine does something else, too: then no
seconds are kept. `compare.py` runs the other tools, and PatchMorph as they are run.
"""

import argparse
import csv
import itertools
import json
import math
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import machine
import torch

from patchmorph import api
from patchmorph.evaluation import metrics
from patchmorph.evaluation.benchmark import ASEG, label_groups, merge_cortex
from patchmorph.evaluation.labels import load_labels
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.io.images import load_image
from patchmorph.registration.options import BEST, PRESETS
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.jacobian import determinant_of_map
from patchmorph.transforms.resample import resample

TABLE = machine.RESULTS / "accuracy.csv"
KEYS = ("set", "tool", "device", "pair")
PEOPLE = {"t1-labelled": ("01", "02", "04", "05", "06"), "t1-tissue": ("01", "05", "08", "13")}
PASSES = PRESETS[BEST].passes
"""Of refinement, as ``--best`` has them."""
CLASSICAL_PASSES = 60
"""On each scale without networks, at most."""

OURS = {
    "patchmorph": ("t1-brain", 0),
    "patchmorph-refine": ("t1-brain", PASSES),
    "patchmorph-classical": ("none", CLASSICAL_PASSES),
}
"""Model and passes of refinement."""


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


def run_ours(
    models: dict[str, Any], tool: str, pair: PairPaths, device: str
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Warped labels and mapped points on the fixed grid, and seconds."""
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
    part = path.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


def summarize(rows: list[dict[str, str]], keys: tuple[str, ...] = KEYS) -> list[dict[str, Any]]:
    """Means of every figure over the pairs that have it, a data set, tool and device; pairs that failed."""
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    kinds = [key for key in keys if key != "pair"]
    for row in rows:
        groups.setdefault(tuple(row[key] for key in kinds), []).append(row)
    summary = []
    for group, members in sorted(groups.items()):
        columns = [column for column in members[0] if column not in (*keys, "failed")]
        values = {column: [float(row[column]) for row in members if row[column]] for column in columns}
        means = {column: fmean(numbers) for column, numbers in values.items() if numbers}
        failed = sum(bool(row.get("failed")) for row in members)
        counts = {"pairs": len(members) - failed} | ({"failed": failed} if failed else {})
        summary.append(dict(zip(kinds, group, strict=True)) | counts | {"mean": means})
    return summary


def write_summary(name: str, path: Path, keys: tuple[str, ...] = KEYS) -> None:
    """Write the means of the table at ``path`` beside it, with this machine under ``name``."""
    file = path.with_suffix(".json")
    machines = json.loads(file.read_text(encoding="utf-8"))["machines"] if file.exists() else {}
    summary = {
        "machines": machines | {name: machine.describe()},
        "groups": summarize(read_table(path), keys),
    }
    file.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tools", nargs="*", default=["patchmorph", "patchmorph-refine"], choices=list(OURS))
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
            warped, mapped, seconds = run_ours(models, tool, pair, device)
            row = measure(grid, fixed, warped, mapped, arguments.set)
            what = {"set": arguments.set, "tool": tool, "device": device, "pair": name(pair)}
            write_row(what | {"seconds": None if arguments.shared else seconds} | row, arguments.output)
            shown = " ".join(
                f"{row.get(k, math.nan):.4f}" for k in ("dice", "dice_aseg", "dice_cortex", "folding_percent")
            )
            print(f"{name(pair)} {tool:20s} {shown} {seconds:.1f} s", flush=True)
    write_summary(device, arguments.output)


def chosen(arguments: argparse.Namespace) -> list[PairPaths]:
    """The pairs that ``--pairs`` names, of any people of the set; else those that are compared."""
    people = {person for pair in arguments.pairs or () for person in pair.split("-")}
    found = pairs(arguments.data / arguments.set, tuple(sorted(people)) or PEOPLE[arguments.set])
    if arguments.set == "t1-tissue" and not people:
        found = [pair for k, pair in enumerate(found) if k % 3 != 2]  # 8 of 12: every person on both sides
    return [pair for pair in found if arguments.pairs is None or name(pair) in arguments.pairs]


if __name__ == "__main__":
    main()
