"""What voxels that show no tissue, lesions, masks and tight fields of view cost in Dice.

    python benchmarks/difficult.py [--pairs 01-02 ...] [--only WORD ...] [--device auto|cpu|cuda]

Each case changes one image of a pair of ``t1-labelled`` and registers it by ``t1-brain``; ``loss`` is the
Dice of the 27 aseg structures of the plain pair minus that of the case. Lesions are dark balls of 20 mm in
the fixed image; their ``shell`` (12 mm around) is compared too, with the lesion as it is as reference. Writes
results/difficult.csv, and the largest losses into results/difficult.json.
"""

import argparse
import csv
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import machine
import torch
from robustness import Brain, read

from patchmorph import api
from patchmorph.evaluation.benchmark import label_groups
from patchmorph.images.volume import Image
from patchmorph.registration.result import Registration
from patchmorph.spatial.grid import Grid, triple
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.resample import resample

MODEL = "t1-brain"
LESIONS = {"white matter": 2, "cortex": 1028, "thalamus": 10}
RADIUS_MM, SHELL_MM = 10.0, 12.0


class Case(NamedTuple):
    """One registration; ``lesion``: whose shell is compared; ``is_part``: only what it shows is compared."""

    name: str
    fixed: Image
    moving: Image
    options: Mapping[str, Any] = MappingProxyType({})
    lesion: str = ""
    is_part: bool = False


def voxels(image: Image) -> torch.Tensor:
    return image.data[0, 0].float().clone()


def like(image: Image, values: torch.Tensor) -> Image:
    return Image(values[None, None].float(), image.grid, image.name)


def white_matter(image: Image) -> float:
    values = voxels(image)
    return 1.2 * float(values[values > 0].median())


def padded(image: Image, margin: int) -> Image:
    """With ``margin`` more voxels of zero on each side."""
    shape = triple(n + 2 * margin for n in image.grid.shape)
    values = torch.nn.functional.pad(image.data.float(), (margin,) * 6)
    matrix = image.grid.voxel_to_world.clone()
    matrix[:, :3, 3] -= margin * matrix[:, :3, :3].sum(-1)
    return Image(values, Grid(shape, matrix), image.name)


def marker(image: Image, side: int, times: float) -> Image:
    """A cube in a corner of a wider array, ``times`` as bright as white matter."""
    wider = padded(image, 12)
    values = voxels(wider)
    values[3 : 3 + side, 3 : 3 + side, 3 : 3 + side] = times * white_matter(image)
    return like(wider, values)


def implants(image: Image, fraction: float, times: float, side: int = 7) -> Image:
    """Bright cubes inside, ``fraction`` of the voxels."""
    values, generator = voxels(image), torch.Generator().manual_seed(0)
    inside = torch.nonzero(values > values.max() / 3)
    for _ in range(math.ceil(fraction * values.numel() / side**3)):
        start = inside[int(torch.randint(len(inside), (1,), generator=generator))]
        values[tuple(slice(int(a), int(a) + side) for a in start)] = times * white_matter(image)
    return like(image, values)


def vessels(image: Image, count: int, times: float) -> Image:
    """Bright rods of three voxels through the brain."""
    values, generator = voxels(image), torch.Generator().manual_seed(0)
    bright = torch.where(values > 0, times * white_matter(image), 0.0)
    for rod in range(count):
        block = [slice(None)] * 3
        for axis in ((rod + 1) % 3, (rod + 2) % 3):
            place = int((0.2 + 0.6 * float(torch.rand(1, generator=generator))) * values.shape[axis])
            block[axis] = slice(place, place + 3)
        values[tuple(block)] = bright[tuple(block)]
    return like(image, values)


def outside_cylinder(image: Image, value: float) -> Image:
    wider = padded(image, 8)
    values = voxels(wider)
    x, _, z = (torch.linspace(-1, 1, n) for n in values.shape)
    outside = (x[:, None].square() + z[None].square() > 0.98)[:, None].expand(values.shape)
    return like(wider, torch.where(outside & (values == 0), value, values))


def slab(image: Image, value: float, axis: int, width: int) -> Image:
    wider = padded(image, 4)
    values = voxels(wider)
    values.narrow(axis, 0, width).fill_(value)
    return like(wider, values)


def block(image: Image, shape: tuple[int, int, int]) -> Image:
    """The middle of the content, without background."""
    middle = torch.nonzero(voxels(image) > 0).float().mean(0).int().tolist()
    size = triple(min(n, m) for n, m in zip(shape, image.grid.shape, strict=True))
    start = triple(
        max(0, min(a - n // 2, m - n)) for a, n, m in zip(middle, size, image.grid.shape, strict=True)
    )
    part = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
    return Image(image.data[(..., *part)].clone(), image.grid.crop(start, size), image.name)


def distance_to(brain: Brain, label: int) -> torch.Tensor:
    """Distance in mm of each voxel from the voxel of ``label`` next to the middle of the label."""
    points, labels = brain.image.grid.points_world()[0], brain.labels.data[0, 0]
    places = points[labels == label]
    center = places[(places - places.mean(0)).norm(dim=-1).argmin()]
    return (points - center).norm(dim=-1)


def cases(fixed: Brain, moving: Brain) -> Iterator[Case]:
    f, m = fixed.image, moving.image
    yield Case("plain", f, m)
    for side, times in ((27, 2), (27, 4), (27, 24), (50, 4), (50, 24)):
        yield Case(f"marker of {side} voxels, {times} x", f, marker(m, side, times))
        yield Case(f"marker of {side} voxels, {times} x, fixed", marker(f, side, times), m)
    content = like(m, (voxels(m) > 0).float())
    yield Case("marker of 50 voxels, 24 x, with a mask", f, marker(m, 50, 24), {"moving_mask": content})
    for fraction, times in ((0.005, 4), (0.015, 3), (0.015, 4), (0.015, 12)):
        yield Case(f"implants, {100 * fraction:g} %, {times} x", f, implants(m, fraction, times))
    yield Case("implants, 1.5 %, 4 x, fixed", implants(f, 0.015, 4), m)
    yield Case("vessels, 10 x", f, vessels(m, 60, 10))
    for value in (-3024.0, -32768.0, 32767.0, math.nan):
        options = {"background": value} if math.isnan(value) else {}
        yield Case(f"{value:g} outside a cylinder", f, outside_cylinder(m, value), options)
    yield Case("-3024 outside a cylinder, fixed", outside_cylinder(f, -3024.0), m)
    for axis, width in ((0, 1), (1, 3), (2, 2)):
        yield Case(f"a slab of -9999, axis {axis}", f, slab(m, -9999.0, axis, width))
    ids = {"fixed_mask": fixed.labels, "moving_mask": moving.labels}
    yield Case("segmentations as masks", f, m, ids)
    yield Case(
        "the same as 0 and 1",
        f,
        m,
        {key: like(mask, (voxels(mask) > 0).float()) for key, mask in ids.items()},
    )
    yield Case("a block of 60 voxels", f, block(m, (60, 60, 60)), is_part=True)
    yield Case("a block of 60 voxels, fixed", block(f, (60, 60, 60)), m, is_part=True)
    yield Case("a slab of 24 voxels", f, block(m, (24, 999, 999)), is_part=True)
    for name, label in LESIONS.items():
        inside = (distance_to(fixed, label) <= RADIUS_MM) & (voxels(f) > 0)
        noise = 30 + 20 * torch.rand(inside.shape, generator=torch.Generator().manual_seed(1))
        lesion = like(f, torch.where(inside, noise, voxels(f)))
        yield Case(f"lesion in {name}", lesion, m, {}, name)
        for mask, shown in (("content", voxels(f) > 0), ("labels", voxels(fixed.labels) > 0)):
            options = {"fixed_mask": like(f, (shown & ~inside).float())}
            yield Case(f"lesion in {name}, hole in the mask of {mask}", lesion, m, options, name)
        yield Case(f"lesion in {name}, ignored", lesion, m, {"fixed_ignore": like(f, inside.float())}, name)


def dice(found: Registration, fixed: Brain, moving: Brain, where: torch.Tensor | None = None) -> float:
    """Dice on the grid of the fixed labels, in all voxels or in some."""
    grid = fixed.labels.grid.to(found.fixed.grid.device)
    warped = resample(moving.labels.to(grid.device), found.transform, grid, "nearest").data[0, 0].long()
    labels = fixed.labels.to(grid.device).data[0, 0].long()
    if where is not None:
        labels, warped = labels * where.to(grid.device), warped * where.to(grid.device)
    return label_groups(labels, warped)["dice_aseg"]


def measured(
    pair: str, fixed: Brain, moving: Brain, wanted: Callable[[str], bool], device: str
) -> Iterator[dict]:
    plain, as_it_is, map_of_plain = math.nan, {}, None
    for case in cases(fixed, moving):
        if not wanted(case.name):
            continue
        found = api.register(case.fixed, case.moving, MODEL, device, **case.options)
        overlap, shell = dice(found, fixed, moving), math.nan
        if map_of_plain is None:
            plain, map_of_plain = overlap, found
        before, shell_before = plain, math.nan
        if case.is_part:
            ones = Image(torch.ones_like(case.moving.data), case.moving.grid)
            shown_by = map_of_plain.transform
            if case.fixed is not fixed.image:
                ones = Image(torch.ones_like(case.fixed.data), case.fixed.grid)
                shown_by = AffineTransform.identity()
            device_grid = fixed.labels.grid.to(map_of_plain.fixed.grid.device)
            ones = ones.to(device_grid.device)
            reached = resample(ones, shown_by.to(device_grid.device), device_grid, "nearest").data[0, 0] > 0
            overlap, before = (dice(each, fixed, moving, reached) for each in (found, map_of_plain))
        if case.lesion:
            distance = distance_to(fixed, LESIONS[case.lesion])
            shell = dice(found, fixed, moving, (distance > RADIUS_MM) & (distance <= RADIUS_MM + SHELL_MM))
            as_it_is.setdefault(case.lesion, (overlap, shell))
            before, shell_before = as_it_is[case.lesion]
        yield {
            "pair": pair,
            "case": case.name,
            "dice_aseg": overlap,
            "loss": before - overlap,
            "shell": shell,
            "shell_gain": shell - shell_before,
            "verdict": found.verdict.level,
            "device": found.fixed.grid.device.type,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", nargs="*", default=["01-02", "05-04"])
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--data", type=Path, default=machine.DATA)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()

    def wanted(name: str) -> bool:
        return not arguments.only or name == "plain" or any(word in name for word in arguments.only)

    rows = []
    for pair in arguments.pairs:
        fixed, moving = (read(arguments.data / "t1-labelled", person) for person in pair.split("-"))
        for row in measured(pair, fixed, moving, wanted, arguments.device):
            rows.append(
                {key: f"{value:.4f}" if isinstance(value, float) else value for key, value in row.items()}
            )
            print(*rows[-1].values(), sep=" | ", flush=True)
    with (arguments.output / "difficult.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    names = dict.fromkeys(row["case"] for row in rows)
    losses = {name: max(float(row["loss"]) for row in rows if row["case"] == name) for name in names}
    machine.write("difficult", {"largest_loss": losses}, arguments.output, quiet=True)


if __name__ == "__main__":
    main()
