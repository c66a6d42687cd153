"""One labelled pair through the command line on the CPU, and its files.

    python benchmarks/registration.py [--data FOLDER] [--runs N]

Writes results/registration.json: wall time and peak memory of the whole process, start-up included; the size
of ``transform.h5`` and how far its points lie from the exact chain; the inverse; labels warped by SimpleITK
against ``patchmorph apply``.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine
import SimpleITK as sitk  # noqa: N813
import torch

from patchmorph import api
from patchmorph.io.images import load_image
from patchmorph.io.transforms.formats import load_transform

COMMAND = str(Path(sys.executable).parent / "patchmorph")


def run(*arguments: object) -> tuple[float, float]:
    """Seconds and peak resident GiB of one process."""
    began = time.perf_counter()
    process = subprocess.Popen([COMMAND, *map(str, arguments)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{COMMAND} {arguments[0]} failed")
    return time.perf_counter() - began, usage.ru_maxrss / 2**20


def files(folder: Path, images: tuple[Path, Path], moving_labels: Path) -> dict[str, float]:
    """Figures of the files that a registration left."""
    fixed, labels = load_image(images[0]), load_image(moving_labels)
    registration = api.register(fixed, load_image(images[1]), device="cpu")
    points = fixed.grid.points_world()[fixed.data[:, 0] > 0][None]
    exact = registration.transform(points)
    read = load_transform(folder / "transform.h5")
    run("apply", folder / "transform.h5", moving_labels, "--reference", images[0], "-o", folder / "l.nii.gz",
        "--interpolation", "nearest")  # fmt: skip
    ours = load_image(folder / "l.nii.gz").data[0, 0]
    theirs = sitk.Resample(
        sitk.ReadImage(str(moving_labels)),
        sitk.ReadImage(str(images[0])),
        sitk.ReadTransform(str(folder / "transform.h5")),
        sitk.sitkNearestNeighbor,
    )
    same = ours == torch.from_numpy(sitk.GetArrayFromImage(theirs).transpose(2, 1, 0).copy())
    back = (registration.inverse(exact) - points).norm(dim=-1)
    file_back = (load_transform(folder / "inverse_transform.h5")(read(points)) - points).norm(dim=-1)
    return {
        "transform_megabytes": (folder / "transform.h5").stat().st_size / 1e6,
        "file_against_exact_chain_mm_largest": float((read(points) - exact).norm(dim=-1).max()),
        "inverse_of_transform_mm_mean": float(back.mean()),
        "inverse_of_transform_mm_99th_percentile": float(back.quantile(0.99))
        if back.numel() < 1e7
        else float("nan"),
        "inverse_of_transform_mm_largest": float(back.max()),
        "inverse_file_of_transform_file_mm_mean": float(file_back.mean()),
        "labels_same_as_simpleitk_percent": 100 * float(same.float().mean()),
        "labels_same_as_simpleitk_inside_percent": 100 * float(same[(ours > 0)].float().mean()),
        "label_voxels": int(labels.data.gt(0).sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=machine.DATA / "t1-labelled")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()
    fixed, moving = (arguments.data / f"sub-0{k}_T1w.nii.gz" for k in (1, 2))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured = [
            run("register", fixed, moving, "-o", folder, "--device", "cpu", "--overwrite")
            for _ in range(arguments.runs)
        ]
        figures = {
            "pair": "t1-labelled, fixed sub-01, moving sub-02",
            "command_seconds": [round(seconds, 2) for seconds, _ in measured],
            "command_seconds_median": statistics.median(seconds for seconds, _ in measured),
            "command_peak_gib": max(memory for _, memory in measured),
            **files(folder, (fixed, moving), arguments.data / "sub-02_labels.nii.gz"),
        }
    machine.write("registration", figures, arguments.output)


if __name__ == "__main__":
    main()
