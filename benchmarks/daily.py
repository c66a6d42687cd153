"""The command as a lab uses it: seconds and megabytes on two CPU cores.

    python benchmarks/daily.py [--data FOLDER] [--runs N] [--parts start register busy affine greedy]

Whole processes on one pair of `t1-labelled` (fixed sub-01, moving sub-02), start-up included, each the median
of the runs, after one that compiles the modules, as pip does when it installs them: the help and the import;
``register`` with default outputs on an idle machine, with another process busy on both cores, and affine
only; Greedy in the same run. Writes results/daily.json.
"""

import argparse
import contextlib
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import accuracy
import machine
import tools

COMMAND = str(Path(sys.executable).parent / "patchmorph")
BUSY = "import torch; a = torch.randn(1500, 1500)\nwhile True: a @ a"
NOT_COMPILED = "PYTHONDONTWRITEBYTECODE"
"""Set where Python is to compile all modules at each start, which an installed command does not."""

PARTS = ("start", "register", "busy", "affine", "greedy")


def seconds(*command: object) -> float:
    """Wall time of a process."""
    began = time.perf_counter()
    subprocess.run(
        [str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True
    )
    return time.perf_counter() - began


def longest_silence(*command: object) -> float:
    """Most seconds between two lines of a process on standard error, its start and end included."""
    times = [time.perf_counter()]
    words = [str(word) for word in command]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        times += [time.perf_counter() for _ in process.stderr]
    times.append(time.perf_counter())
    return max(after - before for before, after in itertools.pairwise(times))


@contextlib.contextmanager
def busy_cores() -> Iterator[None]:
    """A process that multiplies matrices on all cores; its threads spin, as those of numerical work do."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    process = subprocess.Popen([sys.executable, "-c", BUSY], env=environment)
    time.sleep(3)  # until torch is loaded
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=machine.DATA / "t1-labelled")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()
    os.environ.pop(NOT_COMPILED, None)
    pair = [arguments.data / f"sub-0{k}_T1w.nii.gz" for k in (1, 2)]
    figures: dict[str, object] = {
        "pair": "t1-labelled, fixed sub-01, moving sub-02",
        "load_before": os.getloadavg(),
    }

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def register(*options: str) -> list[float]:
            command = (COMMAND, "register", *pair, "-o", folder / "out", "--device", "cpu", "--overwrite")
            return [seconds(*command, *options) for _ in range(arguments.runs + 1)][1:]

        def measure(key: str, runs: list[float]) -> None:
            figures[f"{key}_seconds"] = round(statistics.median(runs), 2)
            figures[f"{key}_seconds_of_runs"] = [round(run, 2) for run in runs]
            print(key, figures[f"{key}_seconds_of_runs"], flush=True)

        if "start" in arguments.parts:
            runs = range(arguments.runs)
            measure("help", [seconds(COMMAND, "--help") for _ in runs])
            measure("import", [seconds(sys.executable, "-c", "import patchmorph") for _ in runs])
        if "register" in arguments.parts:
            measure("register", register())
            sizes = {path.name: path.stat().st_size / 1e6 for path in (folder / "out").iterdir()}
            figures["folder_megabytes"] = round(sum(sizes.values()), 1)
            figures["files_megabytes"] = {key: round(size, 1) for key, size in sizes.items()}
            command = (COMMAND, "register", *pair, "-o", folder / "silence", "--device", "cpu")
            figures["longest_silence_seconds"] = round(longest_silence(*command), 2)
            register("--save", "inverse")
            figures["inverse_megabytes"] = round(
                (folder / "out" / "inverse_transform.h5").stat().st_size / 1e6, 1
            )
        if "busy" in arguments.parts:
            with busy_cores():
                measure("register_busy", register())
        if "affine" in arguments.parts:
            measure("affine", register("--transform", "affine"))
        if "greedy" in arguments.parts:
            first = next(p for p in accuracy.pairs(arguments.data) if accuracy.name(p) == "01-02")
            measure("greedy", [tools.run("greedy", first).seconds])
    machine.write("daily", figures, arguments.output)


if __name__ == "__main__":
    main()
