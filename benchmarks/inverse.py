"""How exact inverses of flows are, on one labelled pair: writes results/inverse.json.

    python benchmarks/inverse.py [--data FOLDER]

Behind docs/decisions/005. Distances (mm) between x and its way there and back, inside the fixed labels.
"""

import argparse
import tempfile
import time
from pathlib import Path

import machine
import torch
from torch.nn import functional

from patchmorph import api
from patchmorph.io.images import load_image
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.spatial.affine import from_linear
from patchmorph.spatial.grid import Grid, triple
from patchmorph.transforms import fields
from patchmorph.transforms.base import Transform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.velocity import VelocityField

STRIDE = 20
"""Every so many-th voxel of the labels is measured."""


def error(there: Transform, back: Transform, points: torch.Tensor) -> dict[str, float]:
    distance = (back(there(points)) - points).norm(dim=-1)
    return {
        "mean": round(float(distance.mean()), 4),
        "99th_percentile": round(float(distance.quantile(0.99)), 3),
    }


def twice_as_fine(field: VelocityField) -> VelocityField:
    linear = torch.eye(3, dtype=torch.float64)[None] / 2
    finer = field.grid.voxel_to_world @ from_linear(linear, torch.full((1, 3), -0.25, dtype=torch.float64))
    velocity = functional.interpolate(field.velocity, scale_factor=2, mode="trilinear")
    return VelocityField(velocity, Grid(triple(velocity.shape[2:]), finer), field.steps)


def ways(field: VelocityField, points: torch.Tensor) -> dict[str, dict[str, float]]:
    fine = twice_as_fine(field)
    nodes = DisplacementField.tabulate(field.inverse(), field.grid)
    return {
        "exp(-v)": error(field, backward(field), points),
        "both flows on a grid twice as fine": error(fine, backward(fine), points),
        "exact at the nodes, trilinear between": error(field, nodes, points),
        "solved at each point": error(field, field.inverse(), points),
    }


def backward(field: VelocityField) -> VelocityField:
    return VelocityField(-field.velocity, field.grid, field.steps)


def file(transform: Transform, points: torch.Tensor, refinement: float) -> dict[str, float]:
    fields.REFINEMENT = refinement
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inverse.h5"
        began = time.perf_counter()
        save_transform(transform.inverse(), path)
        seconds = time.perf_counter() - began
        measured = error(transform, load_transform(path), points)
        return {
            "finer_by": refinement,
            "megabytes": round(path.stat().st_size / 1e6),
            "seconds": round(seconds, 1),
        } | measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=machine.DATA / "t1-labelled")
    folder = parser.parse_args().data
    fixed, moving = (load_image(folder / f"sub-0{k}_T1w.nii.gz") for k in (1, 2))
    transform = api.register(fixed, moving, device="cpu").transform
    labels = load_image(folder / "sub-01_labels.nii.gz").data[:, 0]
    points = fixed.grid.points_world()[labels > 0][None, ::STRIDE]
    flows = [part for part in transform.parts() if isinstance(part, VelocityField)]
    figures = {
        "parts": {f"{float(field.grid.spacing_mm[0, 0]):.1f} mm": ways(field, points) for field in flows},
        "chain": {"packaged": error(transform, transform.inverse(), points)},
        "file": [file(transform, points, refinement) for refinement in (1.0, 1.25, 1.5, 1.6, 1.75)],
    }
    machine.write("inverse", figures)


if __name__ == "__main__":
    main()
