"""The examples of docs/when-it-fails.md: what goes wrong on real images, and the same after what to try.

    python benchmarks/remedies.py [--examples NAME ...] [--data FOLDER] [--device auto|cpu|cuda]

Mean Dice of 27 structures (people) or of 336 labels (mouse) goes into results/remedies.json; examples that
are not named stay as they were.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import machine
import robustness
import torch

from patchmorph import api
from patchmorph.evaluation.benchmark import label_groups
from patchmorph.evaluation.labels import load_labels
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.resample import resample

FILE = machine.RESULTS / "remedies.json"


class Example(NamedTuple):
    """Two images, arguments of ``register`` that fail and others that help; ``seen``: where labels count."""

    fixed: robustness.Brain
    moving: robustness.Brain
    fails: dict[str, Any]
    helps: dict[str, Any]
    seen: Image | None = None


def person(data: Path, name: str) -> robustness.Brain:
    return robustness.read(data / "t1-labelled", name)


def mask(image: Image) -> Image:
    return Image((image.data > 0).to(torch.uint8), image.grid)


def on(image: Image, grid: Grid) -> Image:
    return resample(image, AffineTransform.identity(), grid, "nearest")


def skull(data: Path) -> Example:
    """A head taken for a brain, here because a mask says that all of it counts; then the brain's mask."""
    head = robustness.read(data / "t1-whole-head", "01")
    everything = Image(torch.ones_like(head.image.data, dtype=torch.uint8), head.image.grid)
    brain = on(mask(person(data, "01").image), head.image.grid)
    return Example(head, person(data, "05"), {"fixed_mask": everything}, {"fixed_mask": brain})


def part(data: Path) -> Example:
    """A third of the moving brain is missing; then the fixed one is masked to about what is left."""
    fixed, moving = person(data, "03"), robustness.cropped(person(data, "06"), 2, True)
    left = on(mask(robustness.cropped(fixed, 2, True).image), fixed.image.grid)
    return Example(fixed, moving, {}, {"fixed_mask": left}, left)


def inside(data: Path) -> Example:
    """A contrast in which many intensities are one; then longer refinement by self-similarity."""
    moving = robustness.remapped(person(data, "01"), "random", torch.Generator().manual_seed(501))
    return Example(person(data, "05"), moving, {"refine": 0}, {"refine": 60, "similarity": "mind"})


def alike(data: Path) -> Example:
    """Another contrast that is registered as if it were T1."""
    moving = robustness.remapped(person(data, "04"), "random", torch.Generator().manual_seed(604))
    return Example(person(data, "06"), moving, {"model": "t1-brain"}, {"model": "brain-any-contrast"})


def structure(data: Path) -> Example:
    """Two people in one contrast; then refined."""
    return Example(person(data, "04"), person(data, "06"), {}, {"refine": 60})


def animal(data: Path) -> Example:
    """A mouse in two contrasts by networks that know people; then without any."""
    fixed, moving = (
        robustness.Brain(load_image(path), load_labels(path.with_name(f"{path.name[:-7]}_labels.nii.gz")))
        for path in (data / "mouse" / f"{name}.nii.gz" for name in ("stp_template_200um", "mri_C57BL6"))
    )
    return Example(fixed, moving, {}, {"model": "none", "similarity": "mi"})


EXAMPLES: dict[str, Callable[[Path], Example]] = {
    example.__name__: example for example in (skull, part, inside, alike, structure, animal)
}


def overlap(example: Example, arguments: dict[str, Any], device: str) -> float:
    fixed, moving = example.fixed, example.moving
    found = api.register(fixed.image, moving.image, device=device, **arguments)
    labels = on(fixed.labels, fixed.image.grid).data[0, 0].long()
    warped = found.warped(moving.labels, "nearest").data[0, 0].long().cpu()
    if example.seen is not None:
        labels, warped = labels * example.seen.data[0, 0], warped * example.seen.data[0, 0]
    groups = label_groups(labels, warped)
    return groups.get("dice_aseg", groups["dice"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", nargs="*", default=list(EXAMPLES), choices=list(EXAMPLES))
    parser.add_argument("--data", type=Path, default=machine.DATA)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    rows = json.loads(FILE.read_text())["examples"] if FILE.exists() else {}
    for name in arguments.examples:
        example = EXAMPLES[name](arguments.data)
        before, after = (overlap(example, way, arguments.device) for way in (example.fails, example.helps))
        rows[name] = {"before": round(before, 4), "after": round(after, 4)}
        print(name, rows[name], flush=True)
    machine.write("remedies", {"examples": rows}, quiet=True)


if __name__ == "__main__":
    main()
