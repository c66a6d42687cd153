"""Is the uncertainty larger where the error is? Writes results/uncertainty.json.

    python benchmarks/uncertainty.py [--data FOLDER] [--device auto|cpu|cuda]

Pairs with a known map: a brain of the labelled set, and the same brain through a random smooth warp, with
another contrast (gamma), a bias field and noise. Spearman's rank correlation between the uncertainty and the
true error of each point inside the brain.
"""

import argparse
from pathlib import Path

import machine
import torch
from scipy.stats import spearmanr
from torch.nn import functional

from patchmorph import api
from patchmorph.images.foreground import foreground
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import Transform
from patchmorph.transforms.resample import resample
from patchmorph.transforms.velocity import VelocityField

PEOPLE = ("01", "02", "04", "05", "06")
SCALES = ((40.0, 9.0), (16.0, 3.0))
"""Spacing and standard deviation of the random velocities, mm."""
EVERY = 3
"""Only each third voxel along each axis is looked at: neighbours say the same."""


def random_warp(around: Grid, generator: torch.Generator) -> Transform:
    parts = []
    for spacing_mm, deviation_mm in SCALES:
        side = round(280 / spacing_mm)
        velocity = deviation_mm * torch.randn(1, 3, side, side, side, generator=generator)
        # At the spacing of its knots a trilinear field has kinks; a finer grid of it has small ones.
        fine = Grid.centered((2 * side, 2 * side, 2 * side), spacing_mm / 2, around.center_world)
        smooth = functional.interpolate(velocity, scale_factor=2, mode="trilinear", align_corners=False)
        parts.append(VelocityField(smooth, fine))
    return parts[0] @ parts[1]


def disguised(image: Image, generator: torch.Generator) -> Image:
    """The image with another gamma, a bias field and noise of 3 % of the range."""
    values = image.normalized().values()
    bias = 0.2 * torch.randn(1, 1, 4, 4, 4, generator=generator)
    field = functional.interpolate(bias, size=values.shape[2:], mode="trilinear", align_corners=True)
    noise = 0.03 * torch.randn(values.shape, generator=generator)
    gamma = float(torch.exp(0.4 * torch.rand(1, generator=generator) - 0.2))
    changed = (values**gamma * field.exp() + noise * (values > 0)).clamp(min=0)
    return Image(changed, image.grid, image.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=machine.DATA / "t1-labelled")
    parser.add_argument("--people", nargs="*", default=PEOPLE)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()
    model = api.load_model(api.SAME_CONTRAST, arguments.device)
    rows = []
    for seed, person in enumerate(arguments.people):
        generator = torch.Generator().manual_seed(seed)
        moving = load_image(next(arguments.data.glob(f"sub-{person}_T1w.nii*")))
        truth = random_warp(moving.grid, generator)
        fixed = disguised(resample(moving, truth, moving.grid), generator)
        result = api.register(fixed, moving, model, uncertainty=True)
        thinned = (slice(None), slice(None), *(slice(None, None, EVERY),) * 3)
        inside = foreground(fixed.normalized().values()[thinned])[0, 0]
        points = fixed.grid.points_world()[:, ::EVERY, ::EVERY, ::EVERY][:, inside]
        found = result.transform(points.to(model.device)).cpu()
        error = (found - truth(points)).norm(dim=-1)[0]
        predicted = result.uncertainty().data.cpu()[thinned][0, 0][inside]
        lowest, highest = predicted.quantile(0.1), predicted.quantile(0.9)
        rows.append(
            {
                "person": person,
                "points": len(error),
                "spearman": float(spearmanr(predicted, error)[0]),  # type: ignore[arg-type]
                "error_mm_median": float(error.median()),
                "error_mm_95th_percentile": float(error.quantile(0.95)),
                "uncertainty_mm_median": float(predicted.median()),
                "error_mm_median_in_most_certain_tenth": float(error[predicted <= lowest].median()),
                "error_mm_median_in_least_certain_tenth": float(error[predicted >= highest].median()),
            }
        )
        print(rows[-1], flush=True)
    mean = sum(row["spearman"] for row in rows) / len(rows)
    machine.write("uncertainty", {"spearman_mean": mean, "pairs": rows}, arguments.output, quiet=True)


if __name__ == "__main__":
    main()
