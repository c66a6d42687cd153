"""A night of `batch` with random faults, in little: writes results/endurance.json.

    python benchmarks/endurance.py [--pairs 3600] [--every 8] [--workers 2] [--minutes N] [--seed N]

Pairs of small synthetic images (those of `kills.py`, in turn) stand for the scans of a night: eight hours at
8 s a pair are 3600. While `batch` registers them, a fault comes every so many seconds: a worker is killed;
the command is killed, or is sent SIGTERM, and is run again; an image is truncated for a while; the disk is
full for the workers for a while (no file of theirs may grow). At the end the command runs until it is done;
after ``--minutes`` the pairs are only those that were begun until then.
A pair is lost if any file of its results differs in a byte from that of the same pair in an undisturbed run,
or is missing, or if the table has no row of it; what is left over is counted too. The resident memory of the
command and of its workers is read every second: its growth is that of a straight line over the pairs of each
process, at its end against its beginning.
"""

import argparse
import csv
import math
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import kills
import machine
import numpy as np
import psutil

from patchmorph.cluster.ledger import RESULTS, TABLE

NIGHT_HOURS, NIGHT_PAIRS = 8, 3600
LONG = 200
"""Bytes that files may have where the disk is full."""
WARM = 60
"""Seconds of a process that are left out: it loads libraries, and caches take what they keep."""
WHILE = 4.0
"""Seconds that a damaged image and a full disk stay so."""


def write_table(path: Path, pairs: int) -> None:
    names = ("fixed", "moving", "fixed_mask", "moving_mask")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("name", *names))
        for number in range(pairs):
            moving = f"moving{number % kills.PAIRS}"
            images = ("fixed", moving, "fixed_mask", f"{moving}_mask")
            writer.writerow((f"p{number:05d}", *(f"{name}.nii.gz" for name in images)))


class Night:
    """A cohort that is registered, and what is done to it.

    Args:
        folder: of the inputs, and of the cohort in ``output``.
        rng: draws the faults.
        pairs: that are registered.
        workers: of the command.
    """

    def __init__(self, folder: Path, rng: random.Random, pairs: int, workers: int):
        self.folder, self.rng, self.pairs, self.workers_wanted = folder, rng, pairs, workers
        write_table(folder / "pairs.csv", pairs)
        self.faults: Counter[str] = Counter()
        self.resident: dict[int, list[float]] = defaultdict(list)
        self.command: list[int] = []
        self.process: subprocess.Popen | None = None

    def started(self) -> subprocess.Popen:
        arguments = [sys.executable, "-m", "patchmorph", *kills.batch(self.folder, self.workers_wanted)]
        with (self.folder / "said.txt").open("ab") as said:
            self.process = subprocess.Popen(arguments, env=kills.ENVIRONMENT, stdout=said, stderr=said)
        self.command.append(self.process.pid)
        return self.process

    def workers(self) -> list[psutil.Process]:
        assert self.process is not None
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if any("spawn_main" in part for part in child.cmdline())]

    def read_memory(self) -> None:
        assert self.process is not None
        for process in (psutil.Process(self.process.pid), *self.workers()):
            self.resident[process.pid].append(process.memory_info().rss / 2**20)

    def kill_worker(self) -> None:
        if workers := self.workers():
            self.rng.choice(workers).kill()

    def kill_command(self) -> None:
        self._ended(signal.SIGKILL)

    def terminate_command(self) -> None:
        self._ended(signal.SIGTERM)

    def _ended(self, number: signal.Signals) -> None:
        assert self.process is not None
        workers = self.workers()
        self.process.send_signal(number)
        self.process.wait()
        psutil.wait_procs(workers, timeout=60)
        self.started()

    def damage_image(self) -> None:
        path = self.folder / f"moving{self.rng.randrange(kills.PAIRS)}.nii.gz"
        whole, times = path.read_bytes(), path.stat()
        path.write_bytes(whole[: len(whole) // 2])
        time.sleep(WHILE)
        path.write_bytes(whole)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def fill_disk(self) -> None:
        workers = self.workers()
        for size in (LONG, resource.RLIM_INFINITY):
            for worker in workers:
                if worker.is_running():
                    worker.rlimit(psutil.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
            time.sleep(WHILE if size == LONG else 0)

    def shorten(self) -> None:
        """End the command, and keep only the pairs that were begun."""
        assert self.process is not None
        workers = self.workers()
        self.process.terminate()
        self.process.wait()
        psutil.wait_procs(workers, timeout=60)
        begun = (int(path.name[1:6]) for path in (self.folder / "output" / RESULTS).glob("p*"))
        self.pairs = 1 + max(begun, default=0)
        write_table(self.folder / "pairs.csv", self.pairs)

    def run(self, every: float, minutes: float) -> int:
        """Register the pairs, with a fault every so many seconds on average; the number of runs."""
        kinds: list[Callable[[], None]] = [
            self.kill_worker,
            self.kill_command,
            self.terminate_command,
            self.damage_image,
            self.fill_disk,
        ]
        self.started()
        due, ends = time.monotonic() + every, time.monotonic() + 60 * minutes
        while self.process is not None and self.process.poll() is None:
            time.sleep(1)
            try:
                self.read_memory()
                if time.monotonic() > ends:
                    self.shorten()
                elif time.monotonic() > due:
                    fault = self.rng.choice(kinds)
                    fault()
                    self.faults[fault.__name__] += 1
                    due = time.monotonic() + self.rng.expovariate(1 / every)
            except psutil.Error:
                continue  # the process has ended meanwhile
        for _ in range(3):  # what failed through the last faults
            if self.started().wait() == 0:
                break
        return len(self.command)

    def growth_mib(self, of_command: bool) -> float:
        """The largest growth of a process while it was watched."""
        found = [0.0]
        for process, readings in self.resident.items():
            if (process in self.command) == of_command and len(readings) > 3 * WARM:
                slope = np.polyfit(range(len(readings) - WARM), readings[WARM:], 1)[0]
                found.append(slope * (len(readings) - WARM))
        return round(max(found), 1)


def lost(folder: Path, expected: list[dict[str, str]], pairs: int) -> list[str]:
    """The pairs whose results or rows are not those of an undisturbed run, and what is left over."""
    output = folder / "output"
    with (output / TABLE).open(newline="", encoding="utf-8") as file:
        rows = {row["name"]: row["verdict"] for row in csv.DictReader(file)}
    found = []
    for number in range(pairs):
        name = f"p{number:05d}"
        differences = kills.compared(expected[number % kills.PAIRS], kills.contents(output / RESULTS / name))
        if differences or name not in rows:
            found.append(f"{name}: {rows.get(name, 'no row')}, {differences[:4]}")
    more = [path.name for path in output.iterdir() if "unfinished" in path.name]
    return found + more + [f"left {name}" for name in rows if int(name[1:]) >= pairs]


def undisturbed(inputs: Path) -> list[dict[str, str]]:
    """The results of each different pair."""
    night = Night(inputs, random.Random(0), kills.PAIRS, 2)
    if night.started().wait():
        raise RuntimeError(f"batch must end well, got {(inputs / 'said.txt').read_text()[-600:]}")
    results = inputs / "output" / RESULTS
    return [kills.contents(results / f"p{number:05d}") for number in range(kills.PAIRS)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=NIGHT_PAIRS)
    parser.add_argument("--every", type=float, default=8.0, help="seconds between faults, on average")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=math.inf, help="until the last fault, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch) / name for name in ("undisturbed", "night")]
        for folder in folders:
            folder.mkdir()
            kills.write_inputs(folder)
            (folder / "output").mkdir()
        expected = undisturbed(folders[0])
        night = Night(folders[1], random.Random(given.seed), given.pairs, given.workers)
        began = time.monotonic()
        runs = night.run(given.every, given.minutes)
        missing = lost(folders[1], expected, night.pairs)
    figures = {
        "pairs": night.pairs,
        "hours_at_8_s_a_pair": round(NIGHT_HOURS * night.pairs / NIGHT_PAIRS, 2),
        "workers": given.workers,
        "minutes": round((time.monotonic() - began) / 60, 1),
        "runs": runs,
        "faults": dict(night.faults),
        "lost": missing[:20],
        "growth_of_the_command_mib": night.growth_mib(of_command=True),
        "growth_of_a_worker_mib": night.growth_mib(of_command=False),
    }
    machine.write("endurance", figures, given.output)
    if missing:
        raise SystemExit(f"lost: {len(missing)}")


if __name__ == "__main__":
    main()
