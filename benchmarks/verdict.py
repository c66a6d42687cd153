"""The verdict on good and on bad pairs, with the figures that it is made of.

    python benchmarks/verdict.py --set development|judged [--device auto|cpu|cuda] [--only NAME ...]

Good pairs show two brains of one species, in any contrast, pose and field of view of ``SETS``. Bad pairs are
those that no tool can register, or that are registered wrongly on purpose: another species, noise, phantoms,
scrambled and halved brains, a model that does not suit the contrasts, a mirrored head without orientation.
The limits in ``registration/acceptance.py`` were chosen on ``development``; ``judged`` uses other people and
other draws. Writes results/verdict-SET.csv, a row a pair, and results/verdict-SET.json.
"""

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import machine
import numpy as np
import torch
from robustness import Brain, cropped, posed, read, remapped

from patchmorph import api, catalogue
from patchmorph.evaluation.benchmark import label_groups
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.resample import resample


class Pair(NamedTuple):
    """Two images, with labels where Dice is to be measured."""

    name: str
    good: bool
    fixed: Image
    moving: Image
    labels: tuple[Image, Image] | None = None
    model: str = catalogue.AUTO


Load = Callable[[str], Image]

PEOPLE = {
    "development": [("03", "01"), ("01", "03"), ("03", "05"), ("06", "03"), ("07", "03"), ("03", "07")],
    "judged": [
        *(("01", "02"), ("02", "04"), ("04", "05"), ("05", "06"), ("06", "01"), ("01", "04"), ("02", "05")),
        *(("04", "06"), ("05", "01"), ("06", "02"), ("07", "02"), ("04", "07"), ("07", "06")),
    ],
}
HEADS = {"development": list[tuple[str, str]](), "judged": [("04", "01"), ("01", "04")]}
TISSUE = {"development": [("01", "03"), ("05", "01")], "judged": [("07", "12"), ("08", "07"), ("12", "08")]}
UNLABELLED = {"development": [("01", "11")], "judged": [("21", "31"), ("31", "21")]}


def good_pairs(kind: str, image: Load, brain: Callable[[str], Brain], seeds: range) -> Iterator[Pair]:
    judged = kind == "judged"
    for a, b in PEOPLE[kind]:
        fixed, moving = brain(a), brain(b)
        yield Pair(f"people {a}-{b}", True, fixed.image, moving.image, (fixed.labels, moving.labels))
    for a, b in HEADS[kind]:
        head = image(f"t1-whole-head/sub-{b}")
        yield Pair(f"heads {a}-{b}", True, image(f"t1-whole-head/sub-{a}"), head)
        yield Pair(f"head to brain {a}-{b}", True, brain(a).image, head)
    for folder, chosen in (("t1-tissue", TISSUE), ("t1-unlabelled", UNLABELLED)):
        for a, b in chosen[kind]:
            yield Pair(f"{folder} {a}-{b}", True, image(f"{folder}/sub-{a}"), image(f"{folder}/sub-{b}"))
    a, b = PEOPLE[kind][0]
    yield Pair("across sets", True, brain(a).image, image(f"t1-tissue/sub-{TISSUE[kind][0][0]}"))
    for seed in seeds:
        a, b = PEOPLE[kind][seed % len(PEOPLE[kind])]
        fixed, moving, generator = brain(a), brain(b), torch.Generator().manual_seed(seed)
        contrast = ("inverted", "rising", "random")[seed % 3]
        for name, other in (
            (f"pose {seed}", posed(moving, generator)),
            (f"contrast {contrast} {seed}", remapped(moving, contrast, generator)),
            (f"cut {seed}", cropped(moving, seed % 3, seed % 2 == 0)),
        ):
            yield Pair(f"{name} {a}-{b}", True, fixed.image, other.image, (fixed.labels, other.labels))
    mouse = image("mouse/mri_C57BL6"), image("mouse/stp_template_200um")
    marmoset = image("marmoset/T1w"), image("marmoset/T2w")
    for name, (first, second) in (("mouse", mouse), ("marmoset", marmoset)):
        yield Pair(name, True, second, first) if judged else Pair(name, True, first, second)


def bad_pairs(kind: str, image: Load, brain: Callable[[str], Brain], seeds: range) -> Iterator[Pair]:
    judged = kind == "judged"
    human, other = ("02", "05") if judged else ("03", "01")
    a, b = brain(human), brain(other)
    animals = ("mouse/stp_template_200um", "mouse/mri_C57BL6", "marmoset/T1w", "marmoset/T2w")
    for name in animals[:: 1 if judged else 2]:
        yield Pair(f"{name} to human", False, a.image, image(name))
        yield Pair(f"human to {name}", False, image(name), b.image)
    yield Pair("mouse to marmoset", False, image(animals[3 if judged else 2]), image(animals[0]))
    for seed in seeds:
        generator = torch.Generator().manual_seed(100 + seed)
        grid, shape = a.image.grid, a.image.grid.shape
        phantoms = {
            "noise": torch.rand(shape, generator=generator) * 200,
            "smooth noise": smooth_noise(shape, generator),
            "ball": ball(grid, seed % 5),
            "shells": shells(grid, seed % 5),
            "rods": rods(grid, seed % 5),
            "scrambled brain": scrambled(b.image, generator),
        }
        for name, values in phantoms.items():
            on = b.image.grid if name == "scrambled brain" else grid
            phantom = Image(values[None, None].float(), on, name)
            first, second = (a.image, phantom) if seed % 2 else (phantom, b.image)
            yield Pair(f"{name} {seed}", False, first, second)
        fixed, moving = (brain(x) for x in PEOPLE[kind][seed % len(PEOPLE[kind])])
        wrong = remapped(moving, "inverted" if seed % 2 else "random", generator)
        yield Pair(
            f"wrong model {seed}", False, fixed.image, wrong.image, (fixed.labels, moving.labels), "t1-brain"
        )
        half = cropped(cropped(moving, seed % 3, True), seed % 3, True)
        yield Pair(f"a small part {seed}", False, fixed.image, half.image, (fixed.labels, half.labels))
        upside = mirrored(moving, seed % 3)
        yield Pair(f"mirrored {seed}", False, fixed.image, upside.image, (fixed.labels, upside.labels))


def smooth_noise(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    coarse = torch.rand(1, 1, *(n // 12 for n in shape), generator=generator)
    return 250 * torch.nn.functional.interpolate(coarse, shape, mode="trilinear")[0, 0]


def radii(grid: Grid) -> torch.Tensor:
    return (grid.points_world() - grid.center_world.float()).norm(dim=-1)[0]


def ball(grid: Grid, seed: int) -> torch.Tensor:
    return 150.0 * (radii(grid) < 50 + 5 * seed)


def shells(grid: Grid, seed: int) -> torch.Tensor:
    r = radii(grid)
    return (120 + 80 * torch.cos(r / (3 + seed))) * (r < 65)


def rods(grid: Grid, seed: int) -> torch.Tensor:
    points = (grid.points_world() - grid.center_world.float())[0]
    inside = (points[..., :2].norm(dim=-1) < 60) & (points[..., 2].abs() < 60)
    holes = torch.cos(points[..., 0] / (3 + seed)) * torch.cos(points[..., 1] / (3 + seed)) > 0.5
    return 180.0 * inside * ~holes + 60.0 * (inside & holes)


def scrambled(image: Image, generator: torch.Generator, side: int = 24) -> torch.Tensor:
    """Blocks of the content in a random order."""
    values = image.data[0, 0].float().clone()
    starts = [
        tuple(start) for start in np.ndindex(*(n // side for n in values.shape))
        if float(values[tuple(slice(side * s, side * s + side) for s in start)].mean()) > 30
    ]  # fmt: skip
    blocks = [tuple(slice(side * s, side * s + side) for s in start) for start in starts]
    source = values.clone()
    for target, index in zip(blocks, torch.randperm(len(blocks), generator=generator).tolist(), strict=True):
        values[target] = source[blocks[index]]
    return values


def mirrored(brain: Brain, axis: int) -> Brain:
    """The voxels mirrored along an axis and the header left alone: a file whose orientation is wrong."""
    flip = lambda image: Image(image.data.flip(2 + axis), image.grid, "mirrored")  # noqa: E731
    image = flip(brain.image)
    image.doubts = ("orientation unknown",)
    return Brain(image, flip(brain.labels))


def measured(pair: Pair, device: str) -> dict[str, object]:
    began = time.perf_counter()
    found = api.register(pair.fixed, pair.moving, pair.model, device)
    seconds, began = time.perf_counter() - began, time.perf_counter()
    verdict = found.verdict
    checking = time.perf_counter() - began
    dice = float("nan")
    if pair.labels is not None:
        grid = found.fixed.grid
        fixed = resample(pair.labels[0].to(grid.device), AffineTransform.identity(), grid, "nearest")
        warped = found.warped(pair.labels[1], "nearest")
        dice = label_groups(fixed.data[0, 0].long(), warped.data[0, 0].long())["dice_aseg"]
    return {
        "pair": pair.name,
        "good": int(pair.good),
        "verdict": verdict.level,
        "dice_aseg": dice,
        **asdict(found.evidence),
        "seconds": seconds,
        "checking": checking,
        "reasons": "; ".join(verdict.reasons),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=["development", "judged"], default="judged")
    parser.add_argument("--data", type=Path, default=machine.DATA)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--kinds", nargs="*", default=["good", "bad"])
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()

    def image(name: str) -> Image:
        path = next(
            path
            for ending in ("_T1w.nii.gz", ".nii.gz")
            if (path := arguments.data / (name + ending)).exists()
        )
        return load_image(path)

    def brain(person: str) -> Brain:
        return read(arguments.data / "t1-labelled", person)

    seeds = range(3) if arguments.set == "development" else range(20, 25)
    rows = []
    kinds = {"good": good_pairs, "bad": bad_pairs}
    for pairs in (kinds[name] for name in arguments.kinds):
        for pair in pairs(arguments.set, image, brain, seeds):
            if arguments.only and not any(word in pair.name for word in arguments.only):
                continue
            row = measured(pair, arguments.device)
            rows.append(
                {key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()}
            )
            print(*rows[-1].values(), sep=" | ", flush=True)
    with (arguments.output / f"verdict-{arguments.set}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    counts = {
        f"{kind}: {level}": sum(row["good"] == good and row["verdict"] == level for row in rows)
        for good, kind in ((1, "good"), (0, "bad"))
        for level in ("pass", "check", "fail")
    }
    if arguments.output == machine.RESULTS:
        machine.write(f"verdict-{arguments.set}", counts, quiet=True)
    print(counts)


if __name__ == "__main__":
    main()
