"""How long ``patchmorph evaluate`` takes for what is not registration.

    python benchmarks/evaluate.py [--data FOLDER] [--maps FOLDER] [--pairs 01-02 ...] [--all-labels]

Maps of the 20 pairs of `accuracy.py` are made first, where the folder of ``--maps`` lacks them. Then the
command measures all pairs by these maps, with every metric and a page a pair, in one process, start-up
included. Labels are FreeSurfer's 27 structures with merged cortical parcels, or all that the files hold.
Writes results/evaluate.json.
"""

import argparse
import csv
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import accuracy
import machine
import torch

from patchmorph import api
from patchmorph.evaluation.benchmark import ASEG, merge_cortex
from patchmorph.evaluation.labels import load_labels
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.io.transforms.formats import save_transform


def made(pairs: list[PairPaths], folder: Path) -> list[Path]:
    """Files of the maps; those that are missing are made by registering."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder.absolute() / f"{accuracy.name(pair)}.safetensors" for pair in pairs]
    for pair, path in zip(pairs, paths, strict=True):
        if not path.exists():
            save_transform(api.register(pair.fixed, pair.moving).transform, path)
    return paths


def structures(path: Path, folder: Path) -> Path:
    """A copy of a label map with the 27 structures alone."""
    copy = folder / path.name
    if not copy.exists():
        labels = load_labels(path)
        values = merge_cortex(labels.values())
        values = torch.where(torch.isin(values, torch.tensor(ASEG)), values, 0)
        save_image(Image(values, labels.grid), copy)
    return copy


def write_table(pairs: list[PairPaths], maps: list[Path], folder: Path, all_labels: bool) -> Path:
    """The table of the pairs and their maps."""
    path = folder / "pairs.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("fixed", "moving", "fixed_labels", "moving_labels", "transform"))
        for pair, transform in zip(pairs, maps, strict=True):
            assert pair.fixed_labels
            assert pair.moving_labels
            labels = (pair.fixed_labels, pair.moving_labels)
            chosen = labels if all_labels else [structures(one, folder) for one in labels]
            writer.writerow((pair.fixed, pair.moving, *chosen, transform))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=machine.DATA)
    parser.add_argument("--maps", type=Path, help="folder where maps are kept; by default they are not")
    parser.add_argument("--pairs", nargs="*", help="such as 01-02 (fixed, moving); without it, all 20")
    parser.add_argument("--all-labels", action="store_true", help="about 110 labels instead of 27")
    arguments = parser.parse_args()
    people = sorted({one for pair in arguments.pairs or () for one in pair.split("-")})
    pairs = accuracy.pairs(arguments.data / "t1-labelled", tuple(people) or accuracy.PEOPLE["t1-labelled"])
    pairs = [pair for pair in pairs if arguments.pairs is None or accuracy.name(pair) in arguments.pairs]
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        table = write_table(pairs, made(pairs, arguments.maps or folder), folder, arguments.all_labels)
        command = [
            sys.executable,
            "-m",
            "patchmorph",
            "evaluate",
            str(table),
            "-o",
            str(folder / "out"),
            "-q",
        ]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(command, check=True)
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    figures = {
        "pairs": len(pairs),
        "labels": "all" if arguments.all_labels else len(ASEG),
        "seconds": round(wall, 1),
        "processor_seconds": round(processor, 1),
        "peak_gib": round(after.ru_maxrss / 2**20, 2),
    }
    if arguments.pairs is None and not arguments.all_labels:
        machine.write("evaluate", figures)
    else:
        print(figures)


if __name__ == "__main__":
    main()
