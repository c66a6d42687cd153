"""Overlap on the 20 ordered pairs of the labelled set: writes results/accuracy-{cpu,cuda}.json and .csv.

    python benchmarks/accuracy.py [--data FOLDER] [--model NAME] [--device auto|cpu|cuda]

FOLDER holds sub-01, 02, 04, 05, 06 as ``sub-NN_T1w.nii*`` and ``sub-NN_labels.nii*`` (FreeSurfer ids).
"""

import argparse
import csv
import itertools
from dataclasses import asdict
from pathlib import Path

import machine

from patchmorph import api
from patchmorph.evaluation.benchmark import evaluate, summarize
from patchmorph.evaluation.pairs import PairPaths

PEOPLE = ("01", "02", "04", "05", "06")


def pairs(folder: Path) -> list[PairPaths]:
    def find(person: str, kind: str) -> Path:
        return next(folder.glob(f"sub-{person}_{kind}.nii*"))

    return [
        PairPaths(find(a, "T1w"), find(b, "T1w"), find(a, "labels"), find(b, "labels"))
        for a, b in itertools.permutations(PEOPLE, 2)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=machine.DATA / "t1-labelled")
    parser.add_argument("--model", default=api.DEFAULT_MODEL)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()
    model = api.load_model(arguments.model, arguments.device)
    results = []
    for result in evaluate(pairs(arguments.data), lambda fixed, moving: api.register(fixed, moving, model)):
        results.append(result)
        print(
            Path(result.fixed).name,
            Path(result.moving).name,
            f"{result.dice_aseg:.3f} {result.dice_cortex:.3f}",
        )
    name = f"accuracy-{model.device.type}"
    machine.write(
        name, {"model": arguments.model, "pairs": len(results), "mean": summarize(results)}, arguments.output
    )
    with (arguments.output / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(asdict(results[0])))
        writer.writeheader()
        for result in results:
            row = asdict(result)
            writer.writerow(row | {key: Path(row[key]).name for key in ("fixed", "moving")})


if __name__ == "__main__":
    main()
