"""Seconds of a cohort of twelve pairs on one worker of one thread, and on two.

python benchmarks/cohort.py [--data FOLDER] [--pairs N]
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine

WORKERS = (1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=machine.DATA, help="folder that holds t1-unlabelled")
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()
    images = sorted((arguments.data.absolute() / "t1-unlabelled").glob("*.nii.gz"))
    pairs = itertools.islice(itertools.pairwise(images), arguments.pairs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = folder / "pairs.csv"
        table.write_text("fixed,moving\n" + "".join(f"{fixed},{moving}\n" for fixed, moving in pairs))
        seconds = {}
        for count in WORKERS:
            began = time.perf_counter()
            options = ["--workers", str(count), "--threads", "1", "--device", "cpu", "-q"]
            command = [
                sys.executable,
                "-m",
                "patchmorph",
                "batch",
                table,
                "-o",
                folder / str(count),
                *options,
            ]
            subprocess.run(command, check=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
            seconds[f"seconds_{count}"] = round(time.perf_counter() - began, 1)
    ratio = round(seconds["seconds_1"] / seconds["seconds_2"], 2)
    machine.write("cohort", {"pairs": arguments.pairs, **seconds, "ratio": ratio}, arguments.output)


if __name__ == "__main__":
    main()
