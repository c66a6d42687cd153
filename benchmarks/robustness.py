"""What poses, skulls, other contrasts and missing parts cost: Dice against the same pair without them.

    python benchmarks/robustness.py [--cases pose head contrast crop] [--pairs 01-02 ...] [--count N]
        [--model auto] [--device auto|cpu|cuda] [--shared]

- ``pose``: the moving or the fixed image is turned by up to 60° about any axis, shifted by up to 80 mm along
  each and scaled by 0.8 to 1.25; ``--count`` random ones.
- ``head``: the people of ``t1-whole-head``, with skull on either side or both.
- ``contrast``: the moving image (``contrast-fixed``: the fixed one) inverted, or remapped by a random rising
  or a random other curve.
- ``crop``: the moving image lacks a third on one side; only labels that are left count.

No option of ``register`` is set (but ``--model``, if one is named; then ``--output`` another table). Writes a
row a run into results/robustness.csv (rows of other runs stay) and the means into results/robustness.json.
``--shared``: the machine does something else, too: no seconds kept.
"""

import argparse
import csv
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import machine
import numpy as np
import torch

from patchmorph import api, catalogue
from patchmorph.evaluation.benchmark import label_groups
from patchmorph.evaluation.labels import load_labels
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image
from patchmorph.registration.result import Registration
from patchmorph.spatial.affine import about_point, exponential, from_translation, skew
from patchmorph.spatial.grid import Grid, triple
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.resample import resample

PEOPLE = ("01", "02", "04", "05", "06")
HEADS = ("01", "02", "04", "05")
TABLE = machine.RESULTS / "robustness.csv"
KEYS = ("case", "pair", "seed")
TURN, SHIFT_MM, SCALES = math.radians(60), 80.0, (0.8, 1.25)
KNOTS = 6
"""Of a random curve of intensities."""


class Brain(NamedTuple):
    """An image and its labels."""

    image: Image
    labels: Image


class Run(NamedTuple):
    """One registration: what is registered, and what it is compared with."""

    case: str
    pair: str
    seed: int
    fixed: Brain
    moving: Brain
    plain: tuple[Brain, Brain]


def read(folder: Path, person: str) -> Brain:
    image, labels = (next(folder.glob(f"sub-{person}_{kind}.nii*")) for kind in ("T1w", "labels"))
    return Brain(load_image(image), load_labels(labels))


def posed(brain: Brain, generator: torch.Generator) -> Brain:
    def uniform(lower: float, upper: float, *shape: int) -> torch.Tensor:
        return lower + (upper - lower) * torch.rand(shape, generator=generator, dtype=torch.float64)

    axis = torch.nn.functional.normalize(torch.randn(1, 3, generator=generator, dtype=torch.float64))
    linear = exponential(skew(axis * uniform(-TURN, TURN, 1))) * uniform(*SCALES, 1)
    shift = from_translation(uniform(-SHIFT_MM, SHIFT_MM, 1, 3))
    grid = brain.image.grid
    pose = shift @ about_point(linear, grid.center_world)
    there = Grid(grid.shape, pose @ grid.voxel_to_world)
    return Brain(Image(brain.image.data, there), Image(brain.labels.data, there))


def remapped(brain: Brain, kind: str, generator: torch.Generator) -> Brain:
    """Intensities of what is not background through a curve."""
    data = brain.image.data.float()
    values = torch.rand(KNOTS, generator=generator).numpy()
    if kind == "inverted":
        values = np.linspace(1, 0, KNOTS)
    elif kind == "rising":
        values = np.sort(values)
    curve = 0.1 + 0.9 * np.interp((data / data.max()).numpy(), np.linspace(0, 1, KNOTS), values)
    mapped = torch.from_numpy(curve).float() * (data > 0)
    return Brain(Image(mapped, brain.image.grid, brain.image.name), brain.labels)


def cropped(brain: Brain, axis: int, upper: bool) -> Brain:
    """Without the third of the content at one end of a voxel axis."""
    inside = torch.nonzero(brain.image.data[0, 0] > 0)[:, axis]
    first, last = int(inside.min()), int(inside.max()) + 1
    third = (last - first) // 3
    start, shape = [0, 0, 0], list(brain.image.grid.shape)
    if upper:
        shape[axis] = last - third
    else:
        start[axis], shape[axis] = first + third, shape[axis] - first - third
    block = tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))
    grid = brain.image.grid.crop(triple(start), triple(shape))
    return Brain(*(Image(image.data[(..., *block)], grid, image.name) for image in brain))


def runs(cases: list[str], pairs: list[tuple[str, str]], count: int, data: Path) -> Iterator[Run]:
    def brain(person: str) -> Brain:
        return read(data / "t1-labelled", person)

    def head(person: str) -> Brain:
        return read(data / "t1-whole-head", person)

    if "pose" in cases:
        for seed in range(count):
            a, b = pairs[seed % len(pairs)]
            generator, plain = torch.Generator().manual_seed(seed), (brain(a), brain(b))
            yield Run("pose", f"{a}-{b}", seed, plain[0], posed(plain[1], generator), plain)
            yield Run("pose-fixed", f"{a}-{b}", seed, posed(plain[0], generator), plain[1], plain)
    for (a, b), case in itertools.product(pairs, cases):
        plain = (brain(a), brain(b))
        if case == "head" and {a, b} <= set(HEADS):
            yield Run("head-head", f"{a}-{b}", 0, head(a), head(b), plain)
            yield Run("head-brain", f"{a}-{b}", 0, head(a), plain[1], plain)
            yield Run("brain-head", f"{a}-{b}", 0, plain[0], head(b), plain)
        if case == "contrast":
            for kind in ("inverted", "rising", "random"):
                generator = torch.Generator().manual_seed(int(a + b))
                yield Run(kind, f"{a}-{b}", 0, plain[0], remapped(plain[1], kind, generator), plain)
        if case == "contrast-fixed":
            generator = torch.Generator().manual_seed(int(a + b))
            yield Run(
                "inverted-fixed", f"{a}-{b}", 0, remapped(plain[0], "inverted", generator), plain[1], plain
            )
        if case == "crop":
            for axis, upper in itertools.product(range(3), (False, True)):
                name = f"crop-{axis}{'+' if upper else '-'}"
                yield Run(name, f"{a}-{b}", 0, plain[0], cropped(plain[1], axis, upper), plain)


class Overlap(NamedTuple):
    """Fixed labels and warped labels on the fixed grid, and what was found."""

    fixed: torch.Tensor
    warped: torch.Tensor
    seconds: float
    found: Registration


def overlap(fixed: Brain, moving: Brain, model: str, device: str) -> Overlap:
    began = time.perf_counter()
    found = api.register(fixed.image, moving.image, model, device)
    seconds = time.perf_counter() - began
    grid = found.fixed.grid
    labels = resample(fixed.labels.to(grid.device), AffineTransform.identity(), grid, "nearest")
    warped = found.warped(moving.labels, "nearest")
    return Overlap(labels.data[0, 0].long(), warped.data[0, 0].long(), seconds, found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="*", default=["pose", "head", "contrast", "crop"])
    parser.add_argument("--pairs", nargs="*")
    parser.add_argument("--count", type=int, default=100, help="random poses, of either image")
    parser.add_argument("--data", type=Path, default=machine.DATA)
    parser.add_argument("--model", default=catalogue.AUTO)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--shared", action="store_true")
    parser.add_argument("--output", type=Path, default=TABLE)
    arguments = parser.parse_args()
    pairs: list[tuple[str, str]] = [*itertools.permutations(PEOPLE, 2)]
    if arguments.pairs:
        pairs = [(name[:2], name[-2:]) for name in arguments.pairs]
    kept: dict[str, Overlap] = {}
    for run in runs(arguments.cases, pairs, arguments.count, arguments.data):
        if run.pair not in kept:
            kept[run.pair] = overlap(*run.plain, arguments.model, arguments.device)
        plain, other = kept[run.pair], overlap(run.fixed, run.moving, arguments.model, arguments.device)
        pairs_of_labels = [(found.fixed, found.warped) for found in (other, plain)]
        if run.case.startswith("crop"):  # what is not there cannot be found: the same voxels count for both
            left = _reached(run, plain)
            pairs_of_labels = [(fixed * left, warped * left) for fixed, warped in pairs_of_labels]
        dice, before = (label_groups(*labels)["dice_aseg"] for labels in pairs_of_labels)
        row = {
            "case": run.case,
            "pair": run.pair,
            "seed": run.seed,
            "dice_aseg": dice,
            "plain": before,
            "seconds": "" if arguments.shared else f"{other.seconds:.2f}",
            "notes": "; ".join(note.rpartition("/")[2] for note in other.found.notes),
        }
        print(run.case, run.pair, run.seed, f"{dice:.4f} {dice - before:+.4f}",
              f"{other.seconds:.1f} s", row["notes"], flush=True)  # fmt: skip
        write_row(row, arguments.output)
    if arguments.output == TABLE:
        machine.write("robustness", {"cases": summarize(read_rows(TABLE))}, quiet=True)


def _reached(run: Run, plain: Overlap) -> torch.Tensor:
    """Where on the fixed grid the plain registration shows something that the cropped image still has."""
    ones = Image(torch.ones_like(run.moving.labels.data), run.moving.labels.grid)
    return plain.found.warped(ones, "nearest").data[0, 0].long()


def read_rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_row(row: dict, path: Path) -> None:
    """Put a row in the place of the one of the same run."""
    text = {key: f"{value:.5f}" if isinstance(value, float) else str(value) for key, value in row.items()}
    rows = [old for old in read_rows(path) if any(old[key] != text[key] for key in KEYS)] + [text]
    rows.sort(key=lambda row: (row["case"], row["pair"], int(row["seed"])))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(text))
        writer.writeheader()
        writer.writerows(rows)


def summarize(rows: list[dict[str, str]]) -> dict[str, dict[str, float]]:
    """Of every case: runs, mean loss of Dice, and the share of runs within 0.01."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row["case"], []).append(float(row["plain"]) - float(row["dice_aseg"]))
    return {
        case: {
            "runs": len(losses),
            "mean_loss": sum(losses) / len(losses),
            "largest_loss": max(losses),
            "within_0.01": sum(loss <= 0.01 for loss in losses) / len(losses),
        }
        for case, losses in sorted(groups.items())
    }


if __name__ == "__main__":
    main()
