"""What presets and kinds of maps take and bring: Dice and seconds on pairs of the development person.

    python benchmarks/presets.py [--pairs 03-01 ...] [--rows fast affine ...] [--greedy FOLDER]

Pairs of `t1-labelled` with sub-03, from images in memory to the map: no start-up, reading or writing.
Seconds are processor time, so that other work on the machine counts little. ``--greedy``: a folder with
matrices of Greedy, ``FIXED-MOVING-12.mat`` (``-a -dof 12 -m NCC 2x2x2 -ia-image-centers -n 100x50x10``) and
``-6.mat`` (``-dof 6``). Writes results/presets.json; rows and pairs that are not measured again stay.
"""

import argparse
import json
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import machine

from patchmorph import api
from patchmorph.evaluation.benchmark import label_groups
from patchmorph.evaluation.labels import PairLabels, load_labels
from patchmorph.io.images import load_image
from patchmorph.io.transforms.formats import load_transform
from patchmorph.transforms.base import Transform
from patchmorph.transforms.resample import resample

FOLDER = machine.DATA / "t1-labelled"
PAIRS = ("03-01", "01-03", "03-05", "06-03")
ROWS = {
    "fast": {"preset": "fast"},
    "default": {},
    "best": {"preset": "best"},
    "affine": {"transform": "affine"},
    "rigid": {"transform": "rigid"},
}
GREEDY = {"greedy affine": 12, "greedy rigid": 6}
"""Degrees of freedom."""
KEPT = machine.RESULTS / "presets.json"


def measured(transform: Transform, fixed: Any, labels: PairLabels) -> dict[str, float]:
    """Mean Dice over FreeSurfer's subcortical structures and over cortical parcels."""
    assert labels.fixed is not None
    assert labels.moving is not None
    warped = resample(labels.moving, transform, fixed.grid, "nearest").values()[0, 0].long()
    ids = labels.fixed.values()[0, 0].long()
    groups = label_groups(ids, warped)
    return {name: round(groups[name], 4) for name in ("dice_aseg", "dice_cortex")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", nargs="+", default=PAIRS)
    parser.add_argument("--rows", nargs="+", default=list(ROWS))
    parser.add_argument("--greedy", type=Path)
    arguments = parser.parse_args()
    found: dict[str, dict[str, Any]] = json.loads(KEPT.read_text())["pairs"] if KEPT.exists() else {}
    for pair in arguments.pairs:
        fixed, moving = (load_image(FOLDER / f"sub-{k}_T1w.nii.gz") for k in pair.split("-"))
        labels = PairLabels(*(load_labels(FOLDER / f"sub-{k}_labels.nii.gz") for k in pair.split("-")))
        for row in arguments.rows:
            began = time.process_time()
            transform = api.register(fixed, moving, device="cpu", **ROWS[row]).transform
            seconds = {"seconds": round(time.process_time() - began, 1)}
            found.setdefault(row, {})[pair] = measured(transform, fixed, labels) | seconds
            print(pair, row, found[row][pair], flush=True)
        for row, freedom in GREEDY.items() if arguments.greedy else ():
            transform = load_transform(arguments.greedy / f"{pair}-{freedom}.mat", "greedy")
            found.setdefault(row, {})[pair] = measured(transform, fixed, labels)
        means = {row: _means(list(results.values())) for row, results in found.items()}
        machine.write("presets", {"mean": means, "pairs": found}, quiet=True)
        print(json.dumps(means, indent=1), flush=True)


def _means(results: list[dict[str, float]]) -> dict[str, float]:
    return {"pairs": len(results)} | {
        name: round(fmean(result[name] for result in results), 4) for name in results[0]
    }


if __name__ == "__main__":
    main()
