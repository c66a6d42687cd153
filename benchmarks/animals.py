"""Other species and modalities, with the packaged weights, beside the tools they are compared with.

    python benchmarks/animals.py [--cases marmoset mouse individual defects] [--tools NAME ...]
        [--device auto|cpu|cuda] [--shared]

- ``marmoset``: T1w and T2w templates, whole heads in one space, each registered to the other after that was
  moved by a smooth deformation of up to 3 mm and a pose; the distance to where points of the brain went.
- ``mouse``: diffusion-MRI and two-photon templates, each registered to the other; Dice of the labels of both.
- ``individual``: the two-photon image of one mouse to the two-photon template, and the template to the image;
  the mean local correlation on the template's grid, where the template has structure. The second map is
  inverted for that.
- ``defects``: the same image with a slab missing, stripes, uneven illumination or lost sections to the
  template; judged on the whole image.

``patchmorph`` sets no option, ``patchmorph-refine`` adds ``--refine 60``. Peers run as `compare.py` runs
them, Greedy also by normalised mutual information. Writes a row a run into results/animals.csv (rows of
other runs stay). ``--shared``: the machine does something else, too: no seconds kept.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import accuracy
import machine
import tools
import torch

from patchmorph import api
from patchmorph.evaluation import metrics
from patchmorph.evaluation.labels import load_labels
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image, save_image
from patchmorph.objective.similarity import correlation_map
from patchmorph.spatial.affine import about_point, exponential, from_translation, skew
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.sampling import sample_nearest
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.resample import resample
from patchmorph.transforms.velocity import VelocityField

TABLE = machine.RESULTS / "animals.csv"
KEYS = ("case", "pair", "tool", "seed")
OURS = {"patchmorph": None, "patchmorph-refine": 60}
PEERS = [name for name in tools.TOOLS if name not in OURS]
SEEDS = (0, 1)
"""Of the known deformations and poses, each way."""
LARGEST_MM, KNOT_MM = 3.0, 8.0
"""Of the known deformation, and the distance of the points that it is drawn at."""
TURN, SHIFT_MM = math.radians(30), 20.0
"""Of the known pose: up to so much about a random axis, and along each axis."""
RADIUS = 3
SLAB, LOST = 0.12, 0.1
"""Share of the sections that are missing in one piece, and of those that are lost here and there."""
STRIPES, PERIOD = 0.4, 9
"""How much darker or brighter stripes are, and the rows between two of them."""
DARKEST = 0.3
"""Illumination in the darkest corner."""
DEFECTS = ("slab", "stripes", "illumination", "sections")


class Case(NamedTuple):
    """A pair of files, and how to judge a map on the fixed grid.

    Attributes:
        truth: where the fixed voxels belong in the moving world, and which of them count.
        back: the images are registered the other way round, and the map is inverted.
        judged: image that the map is judged on instead of the moving one.
    """

    case: str
    pair: str
    seed: int
    paths: PairPaths
    truth: tuple[torch.Tensor, torch.Tensor] | None = None
    back: bool = False
    judged: Path | None = None


def known_map(grid: Grid, seed: int) -> Transform:
    """A smooth deformation of up to `LARGEST_MM`, then a pose."""
    generator = torch.Generator().manual_seed(seed)
    extent = grid.spacing_mm[0] * torch.tensor(grid.shape)
    knots = Grid.centered((*(int(n) + 2 for n in extent / KNOT_MM),), KNOT_MM, grid.center_world)  # type: ignore[arg-type]
    coarse = Image(torch.randn(1, 3, *knots.shape, generator=generator), knots)
    fine = Grid.centered((*(4 * n for n in knots.shape),), KNOT_MM / 4, grid.center_world)  # type: ignore[arg-type]
    velocity = torch.nn.functional.interpolate(coarse.data, fine.shape, mode="trilinear", align_corners=False)
    velocity = velocity * LARGEST_MM / velocity.norm(dim=1).max()
    angle = TURN * (2 * torch.rand(1, generator=generator) - 1)
    axis = torch.nn.functional.normalize(torch.randn(1, 3, generator=generator), dim=1)
    turn = about_point(exponential(skew((angle * axis).double())), grid.center_world)
    shift = SHIFT_MM * (2 * torch.rand(1, 3, generator=generator) - 1)
    return AffineTransform(from_translation(shift.double()) @ turn) @ VelocityField(velocity, fine)


def moved(image: Image, through: Transform) -> Image:
    """``image`` after every point went ``through`` a map, on a grid in its new pose."""
    pose = through.affine_part()
    assert isinstance(pose, AffineTransform)
    there = Grid(image.grid.shape, pose.matrix @ image.grid.voxel_to_world)
    return resample(image, through.inverse(), there)


def damaged(image: Image, defect: str) -> Image:
    """``image`` with a defect of microscopy; sections are planes across the first axis of its array."""
    data, generator = image.data.float(), torch.Generator().manual_seed(0)
    x, y, z = data.shape[2:]
    if defect == "slab":
        data[:, :, round(0.55 * x) : round((0.55 + SLAB) * x)] = 0
    elif defect == "sections":
        data[:, :, torch.rand(x, generator=generator) < LOST] = 0
    elif defect == "stripes":
        strength = STRIPES * (2 * torch.rand(x, 1, 1, generator=generator) - 1)
        rows = (torch.arange(y) % PERIOD < PERIOD / 3).float()[:, None]
        data = data * (1 + strength * rows)
    else:
        ramps = (torch.linspace(0, 1, n) for n in (x, y, z))
        a, b, c = torch.meshgrid(*ramps, indexing="ij")
        data = data * (DARKEST + (1 - DARKEST) * (1 - a * b) * (0.5 + 0.5 * c))
    return Image(data.clamp(0, 255).to(image.dtype), image.grid)


def cases(names: list[str], data: Path, work: Path) -> Iterator[Case]:
    mouse, marmoset = data / "mouse", data / "marmoset"
    mri, template = mouse / "mri_C57BL6.nii.gz", mouse / "stp_template_200um.nii.gz"
    mri_labels, template_labels = (
        path.with_name(path.name.replace(".nii.gz", "_labels.nii.gz")) for path in (mri, template)
    )
    if "mouse" in names:
        yield Case("mouse", "mri-stp", 0, PairPaths(mri, template, mri_labels, template_labels))
        yield Case("mouse", "stp-mri", 0, PairPaths(template, mri, template_labels, mri_labels))
    if "individual" in names:
        path = mouse / "stp_individual.nii.gz"
        paths = PairPaths(template, path, template_labels, path)
        yield Case("individual", "template-individual", 0, paths)
        yield Case("individual", "individual-template", 0, paths, back=True)
    for defect in DEFECTS if "defects" in names else ():
        whole, path = mouse / "stp_individual.nii.gz", work / f"{defect}.nii.gz"
        save_image(damaged(load_image(whole), defect), path)
        yield Case("defects", defect, 0, PairPaths(template, path, template_labels, path), judged=whole)
    if "marmoset" in names:
        brain = load_image(marmoset / "brainmask.nii.gz")
        for fixed, moving in (("T1w", "T2w"), ("T2w", "T1w")):
            for seed in SEEDS:
                image = load_image(marmoset / f"{moving}.nii.gz")
                through = known_map(image.grid, seed)
                path = work / f"{moving}-{seed}.nii.gz"
                save_image(moved(image, through), path)
                paths = PairPaths(marmoset / f"{fixed}.nii.gz", path, None, path)
                truth = (through(image.grid.points_world())[0], brain.data[0, 0] > 0)
                yield Case("marmoset", f"{fixed}-{moving}", seed, paths, truth)


def mapped_by(tool: str, paths: PairPaths, device: str, back: bool) -> tuple[torch.Tensor, float, str]:
    """Where the voxels of the fixed grid go (moving world, RAS+ mm), seconds, and what was said."""
    if tool in PEERS:
        found = tools.run(tool, paths, device)
        return found.mapped[0], found.seconds, ""
    began = time.perf_counter()
    pair = (paths.moving, paths.fixed) if back else (paths.fixed, paths.moving)
    found = api.register(*pair, device=device, refine=OURS[tool])
    seconds = time.perf_counter() - began
    transform, image = (found.inverse, found.moving) if back else (found.transform, found.fixed)
    mapped = accuracy.mapped_points(transform, image.grid)
    return mapped[0].cpu(), seconds, "; ".join(note.rpartition("/")[2] for note in found.notes)


def figures(case: Case, mapped: torch.Tensor) -> dict[str, float]:
    """Error, overlap or correlation, as the case asks for."""
    paths = case.paths
    if case.truth:
        truth, inside = case.truth
        error = metrics.tre_mm(mapped.float(), truth.float())[inside]
        return {"tre_mm_median": float(error.median()), "tre_mm_90": float(error.quantile(0.9))}
    if case.case == "mouse":
        assert paths.fixed_labels
        assert paths.moving_labels
        fixed, moving = (load_labels(path) for path in (paths.fixed_labels, paths.moving_labels))
        warped = sample_nearest(moving.data, moving.grid.to_voxel(mapped[None]))[0, 0].long()
        ids = set(fixed.data.unique().tolist()) & set(moving.data.unique().tolist()) - {0}
        overlaps = metrics.dice(fixed.data[0, 0].long(), warped, sorted(map(int, ids)))
        return {"labels": len(overlaps), "dice": sum(overlaps.values()) / len(overlaps)}
    fixed, moving = (load_image(path).normalized() for path in (paths.fixed, case.judged or paths.moving))
    warped = moving.sample(mapped[None].float(), min(fixed.spacing_mm))
    squared, weight = correlation_map(fixed.values(), warped, RADIUS)
    return {"lncc": float((squared * weight).sum() / weight.sum())}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="*", default=["marmoset", "mouse", "individual", "defects"])
    parser.add_argument("--tools", nargs="*", default=[*OURS], choices=[*OURS, *PEERS])
    parser.add_argument("--data", type=Path, default=machine.DATA)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--shared", action="store_true", help="keep no seconds")
    parser.add_argument("--output", type=Path, default=TABLE)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        for case in cases(arguments.cases, arguments.data, Path(work)):
            for tool in arguments.tools:
                if case.back and tool not in OURS:
                    continue
                mapped, seconds, notes = mapped_by(tool, case.paths, arguments.device, case.back)
                found = figures(case, mapped)
                what = {"case": case.case, "pair": case.pair, "tool": tool, "seed": str(case.seed)}
                took = {"seconds": None if arguments.shared else seconds, "notes": notes}
                accuracy.write_row(what | found | took, arguments.output, KEYS)
                shown = " ".join(f"{key} {value:.4f}" for key, value in found.items())
                print(*what.values(), shown, f"{seconds:.1f} s", notes, flush=True)


if __name__ == "__main__":
    main()
