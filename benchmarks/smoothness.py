"""How smooth registrations are, and what their files for other tools keep of it.

    python benchmarks/smoothness.py [--pairs 03-01 ...] [--data FOLDER] [--device auto|cpu|cuda]

Registers pairs of the labelled set that take part in no comparison (those with sub-03) and measures each map
as it is and with its velocities read trilinearly. Writes results/smoothness.json:

- ``sd_log_jacobian``, ``folding_percent``: inside the brain (closed and filled labels), eroded twice;
- ``seam_voxels``, ``seam_quarters``: steps of the log-Jacobian across the points of the finest velocity grid
  over those elsewhere, between the fixed image's voxels and on a grid four times finer than the velocity's;
- ``blob_mm``: a landmark of 3 mm painted into the moving image and warped, its centroid against its point;
- ``dice_aseg``, ``dice_cortex``;
- ``file``: where ``transform.h5`` takes points of the brain, against the map itself (mm), and its size.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import accuracy
import machine
import torch
import transforms
from scipy import ndimage

from patchmorph import api
from patchmorph.evaluation import metrics
from patchmorph.evaluation.labels import load_labels
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.spatial.grid import Grid, triple
from patchmorph.spatial.lattices import along_axes
from patchmorph.transforms.base import AffineTransform, Transform, compose
from patchmorph.transforms.jacobian import determinant_of_map
from patchmorph.transforms.resample import resample
from patchmorph.transforms.velocity import VelocityField

DEVELOPMENT = ("03-01", "01-03", "03-05", "06-03")
PEOPLE = ("01", "03", "05", "06")
ROUNDS = 2
"""Of closing and of eroding the labels, in voxels."""
QUARTERS = 4
FILE_POINTS = 200_000


def brain(labels: torch.Tensor) -> torch.Tensor:
    """The inside of labels: closed, filled and eroded."""
    closed = ndimage.binary_closing(labels.cpu().numpy() > 0, iterations=ROUNDS)
    return torch.from_numpy(ndimage.binary_erosion(ndimage.binary_fill_holes(closed), iterations=ROUNDS))


def trilinear(transform: Transform) -> Transform:
    """The same velocities, read trilinearly."""
    parts = [
        VelocityField(part.velocity, part.grid, part.steps) if isinstance(part, VelocityField) else part
        for part in transform.parts()
    ]
    return compose(*parts)


def log_jacobian(transform: Transform, grid: Grid) -> torch.Tensor:
    """Of the cells between the points of a grid."""
    return metrics.log_jacobian(determinant_of_map(accuracy.mapped_points(transform, grid)[0], grid))


def seams(transform: Transform, grid: Grid, inside: torch.Tensor) -> dict[str, float]:
    """How much the points of the finest velocity grid show."""
    last = transform.parts()[-1]
    assert isinstance(last, VelocityField)
    lattice = last.grid
    to_lattice = lattice.world_to_voxel @ grid.voxel_to_world
    axes = along_axes(to_lattice, grid.shape)
    figures = {}
    if axes is not None:
        middle = [n / 2 for n in grid.shape]
        origin = to_lattice[0, :3, :3] @ torch.tensor(middle, dtype=torch.float64) + to_lattice[0, :3, 3]
        index = [
            origin[axes.index(k)] + to_lattice[0, axes.index(k), k] * (torch.arange(n - 1) + 0.5 - middle[k])
            for k, n in enumerate(grid.shape)
        ]
        figures["seam_voxels"] = metrics.seam_ratio(log_jacobian(transform, grid), index, inside)
    fine = torch.diag(torch.tensor([1 / QUARTERS] * 3 + [1.0], dtype=torch.float64))[None]
    fine[0, :3, 3] = torch.tensor([n // 4 for n in lattice.shape])  # the middle half of it
    quarters = Grid(triple(QUARTERS * (n // 2) for n in lattice.shape), lattice.voxel_to_world @ fine)
    logs = log_jacobian(transform, quarters)
    index = [(torch.arange(n) + 0.5) / QUARTERS for n in logs.shape]
    folded = logs < -3  # logarithms of folds are what they are clamped to
    return figures | {"seam_quarters": metrics.seam_ratio(logs, index, ~folded)}


def overlap(transform: Transform, fixed: torch.Tensor, moving: Image, grid: Grid) -> dict[str, float]:
    warped = resample(moving, transform, grid, "nearest").data[0, 0].long()
    mapped = accuracy.mapped_points(transform, grid)
    row = accuracy.measure(grid, fixed, warped, mapped, "t1-labelled")
    return {name: row[name] for name in ("dice_aseg", "dice_cortex")}


def file_error(transform: Transform, grid: Grid, inside: torch.Tensor) -> dict[str, float]:
    """``transform.h5`` against the map, at points of the brain."""
    points = grid.points_world()[0, :-1, :-1, :-1][inside]
    points = points[:: max(1, len(points) // FILE_POINTS)][None]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "transform.h5"
        save_transform(transform, file)
        off = (load_transform(file)(points) - transform(points)).norm(dim=-1)[0]
        megabytes = file.stat().st_size / 1e6
    return {
        "mean_mm": float(off.mean()),
        "percentile_99_mm": float(off.quantile(0.99)),
        "largest_mm": float(off.max()),
        "megabytes": megabytes,
    }


def measure(pair: accuracy.PairPaths, device: str) -> dict[str, Any]:
    assert pair.fixed_labels
    assert pair.moving_labels
    fixed, moving = load_image(pair.fixed), load_image(pair.moving)
    labels = resample(load_labels(pair.fixed_labels), AffineTransform.identity(), fixed.grid, "nearest")
    inside = brain(labels.data[0, 0])[:-1, :-1, :-1]
    found = api.register(fixed, moving, "t1-brain", device).transform.to("cpu")
    figures: dict[str, Any] = {}
    for name, transform in (("spline", found), ("trilinear", trilinear(found))):
        logs = log_jacobian(transform, fixed.grid)
        figures[name] = {
            "sd_log_jacobian": float(logs[inside].std()),
            "folding_percent": 100 * float((logs[inside] < -20).double().mean()),  # clamped
            **seams(transform, fixed.grid, inside),
            "blob_mm": transforms.blobs(transform, fixed, moving)["blob_own_grid_mean_voxel"]
            * float(fixed.grid.spacing_mm.max()),
            **overlap(transform, labels.data[0, 0].long(), load_labels(pair.moving_labels), fixed.grid),
        }
    return figures | {"file": file_error(found, fixed.grid, inside)}


def means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: fmean(row[name] for row in rows if name in row) for name in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", nargs="*", default=list(DEVELOPMENT))
    parser.add_argument("--data", type=Path, default=machine.DATA)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    chosen = [
        pair
        for pair in accuracy.pairs(arguments.data / "t1-labelled", PEOPLE)
        if accuracy.name(pair) in arguments.pairs
    ]
    with torch.no_grad():
        rows = {accuracy.name(pair): measure(pair, arguments.device) for pair in chosen}
    summary = {kind: means([row[kind] for row in rows.values()]) for kind in ("spline", "trilinear", "file")}
    machine.write("smoothness", {"mean": summary, "pairs": rows})


if __name__ == "__main__":
    main()
