"""Weak scaling of training over processes: writes results/scaling-{cpu,cuda}.json.

    python benchmarks/scaling.py 'IMAGES/*.nii' --device cpu|cuda [--processes 1 2] [--steps 20] [--batch 8]

Each process trains with the same batch, so N processes do N times the work of a step; perfect scaling keeps
the steps a second. On the CPU every process has one thread.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import machine
import yaml

BIN = Path(sys.executable).parent


def rate(arguments: argparse.Namespace, processes: int, folder: Path) -> float:
    """Median steps a second of the lines after the first, which holds the start."""
    run = {"output": str(folder / str(processes)), "log_every": max(1, arguments.steps // 5)}
    config = {
        "data": {"images": [str(Path(arguments.images).resolve())]},
        "optimization": {"steps": arguments.steps, "batch": arguments.batch},
        "run": run,
    }
    file = folder / f"{processes}.yaml"
    file.write_text(yaml.safe_dump(config))
    launcher = [BIN / "torchrun", "--standalone", f"--nproc-per-node={processes}", "--no-python"]
    command = [*launcher, BIN / "patchmorph", "train", file, "--device", arguments.device]
    threads = {"OMP_NUM_THREADS": "1"} if arguments.device == "cpu" else {}
    subprocess.run(command, check=True, env={**os.environ, **threads})
    lines = [json.loads(line) for line in (folder / str(processes) / "log.jsonl").read_text().splitlines()]
    return median(line["steps_per_second"] for line in lines[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images")
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        rates = {count: rate(arguments, count, Path(folder)) for count in arguments.processes}
    first = rates[arguments.processes[0]] * arguments.processes[0]
    figures = {
        "batch": arguments.batch,
        "steps_per_second": rates,
        "speedup": {count: count * value / first for count, value in rates.items()},
    }
    machine.write(f"scaling-{arguments.device}", figures, arguments.output)


if __name__ == "__main__":
    main()
