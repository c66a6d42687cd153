"""Coverage-guided fuzzing of the file readers by atheris, libFuzzer for Python: writes results/fuzz.json.

    pip install atheris
    python benchmarks/fuzz.py [READER ...] --minutes 10 [--corpus corpus]

Readers (`fuzzed.py`) run one after the other, each in a process of its own, on mutations of small whole
files: of bytes, and of the values in JSON. A reader may raise a `PatchMorphError` of one line. Any other
error, a run of more than ten seconds and a GiB more of memory are failures; their input is left beside the
corpus as ``…-crash-…``, ``…-timeout-…`` or ``…-oom-…``, or as ``…-last-…`` where the process ended before it
could be named (in a library, by a signal). A reader that failed goes on until its minutes are over or it has
failed `MOST_FAILURES` times. Readers of other runs stay in the result file.
"""

import argparse
import gzip
import importlib
import itertools
import json
import os
import random
import re
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from fuzzed import Reader, readers

GIB = 2**30
SECONDS = 10
"""That a reader may take for a file of some kB; it may also have a GiB more than before."""
RSS_MIB = 2500
"""Of the process, which holds the libraries and the corpus."""
RUNS_OF_A_LIMIT = 1000
"""After which the limit of memory is set anew: threads and caches of libraries grow, over a hundred thousand
runs by more than one run may have."""
MOST_FAILURES = 20
"""Of a reader, after which it is not started again."""
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 3, 0.5, 1e308, -1e-300, float("nan"), float("inf"), 2**31, 2**63, 10**400),
    *(
        "",
        "a",
        "x" * 300,
        "../..",
        "/",
        "\0",
        "0",
        "nan",
        [],
        {},
        [[]],
        [None],
        {"a": None},
        [0] * 5,
        "\ud800",
    ),
)
"""Values that may stand for others in JSON."""


def mutated_json(value: Any, rng: random.Random) -> Any:
    """``value`` with one of its parts replaced, removed or doubled."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key, chance = rng.choice(keys), rng.random()
        copy: Any = value.copy()
        if chance < 0.1:
            del copy[key]
        elif chance < 0.2 and isinstance(copy, list):
            copy.insert(key, copy[key])
        elif chance < 0.2:
            copy[rng.choice(list(copy))] = copy[key]
        else:
            copy[key] = mutated_json(copy[key], rng)
        return copy
    if isinstance(value, int | float) and rng.random() < 0.3:
        return rng.choice([-value, value + 1, value * 10**6, float(value), str(value)])
    return rng.choice(ODD)


def mutated(data: bytes, reader: Reader, rng: random.Random) -> bytes | None:
    """A file with another value in its JSON; ``None``: it has none."""
    head, body, rest = b"", data, b""
    if reader.target.endswith(".jsonl"):  # of a line
        lines = data.splitlines(keepends=True)
        number = rng.randrange(max(1, len(lines)))
        head, body, rest = (
            b"".join(part) for part in (lines[:number], lines[number : number + 1], lines[number + 1 :])
        )
        rest = b"\n" + rest
    if reader.target.endswith(".safetensors"):
        size = struct.unpack("<Q", data[:8])[0] if len(data) > 8 else 0
        body, rest = data[8 : 8 + size], data[8 + size :]
    try:
        value = json.loads(body)
        metadata = value.get("__metadata__") if body is not data else None
        if isinstance(metadata, dict) and metadata and rng.random() < 0.7:  # JSON within JSON
            key = rng.choice(list(metadata))
            metadata[key] = json.dumps(mutated_json(json.loads(metadata[key]), rng))
        else:
            value = mutated_json(value, rng)
        body = json.dumps(value).encode()
    except (ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return None
    if reader.target.endswith(".safetensors"):
        head = struct.pack("<Q", len(body))
    return head + body + rest


def fuzz(name: str, folder: Path, options: list[str]) -> None:
    """Run one reader on files in a folder; does not return."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["patchmorph"]):
        reader = readers()[name]
        seeds = reader.seeds(folder)
        path = folder / reader.target
        read_one(reader, path, folder, seeds[0])
    from patchmorph.errors import PatchMorphError

    warnings.simplefilter("ignore")
    has_json = mutated(seeds[0], reader, random.Random(0)) is not None

    runs = itertools.count()

    def once(data: bytes) -> None:
        if next(runs) % RUNS_OF_A_LIMIT == 0:
            limit_memory()
        try:
            read_one(reader, path, folder, data)
        except PatchMorphError as error:
            if len(str(error).splitlines()) > 1:
                raise RuntimeError("a message must be one line") from error

    def mutate(data: bytes, size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        changed = mutated(data, reader, rng) if rng.random() < 0.7 else None
        return changed[:size] if changed is not None else atheris.Mutate(data, size)

    atheris.Setup([sys.argv[0], *options], once, **({"custom_mutator": mutate} if has_json else {}))
    atheris.Fuzz()


def read_one(reader: Reader, path: Path, folder: Path, data: bytes) -> None:
    path.write_bytes(gzip.compress(data, 1) if reader.packed else data)
    reader.read(folder)


def limit_memory() -> None:
    """Let an allocation fail that would need a GiB more of addresses, of which some go to the corpus."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * os.sysconf("SC_PAGESIZE") + GIB + GIB // 4
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


def figures(name: str, minutes: float, corpus: Path) -> dict[str, Any]:
    """Fuzz one reader: runs, the slowest, and the failures, with what was said."""
    folder = corpus.absolute() / name
    folder.mkdir(parents=True, exist_ok=True)
    reader = readers()[name]
    with tempfile.TemporaryDirectory() as scratch:
        for number, seed in enumerate(reader.seeds(Path(scratch))):
            (folder / f"seed{number}").write_bytes(seed)
    longest = max(path.stat().st_size for path in folder.glob("seed*"))
    options = [f"-timeout={SECONDS}", f"-rss_limit_mb={RSS_MIB}", f"-max_len={max(4096, 2 * longest)}"]
    options += ["-print_final_stats=1", f"-artifact_prefix={folder}-"]
    ends, said, failures = time.monotonic() + 60 * minutes, [], 0
    while (left := round(ends - time.monotonic())) > 0 and failures < MOST_FAILURES:
        status, text = ran(name, reader, folder, [*options, f"-max_total_time={left}"])
        said.append(text)
        failures += status != 0

    def found(pattern: str) -> list[int]:
        """The largest number in what each process said."""
        return [max(map(int, re.findall(pattern, text)), default=0) for text in said]

    return {
        "minutes": minutes,
        "runs": sum(found(r"(?m:^#|number_of_executed_units:\s+)(\d+)")),
        "features": max(found(r"ft: (\d+)")),
        "slowest_s": max(found(r"slowest_unit_time_sec:\s+(\d+)")),
        "peak_mib": max(found(r"(?:peak_rss_mb:\s+|rss: )(\d+)")),
        "failures": failures,
    }


def ran(name: str, reader: Reader, corpus: Path, options: list[str]) -> tuple[int, str]:
    """Fuzz one reader in a process of its own: its status and what it said."""
    kept = set(corpus.parent.glob(f"{name}-*"))
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        command = [sys.executable, __file__, "--child", name, "--folder", folder]
        command += [f"--option={option}" for option in [*options, str(corpus)]]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            print("\n".join([*done.stdout.splitlines()[-25:], *done.stderr.splitlines()[-12:]]), flush=True)
            if kept == set(corpus.parent.glob(f"{name}-*")):
                shutil.copy(Path(folder) / reader.target, f"{corpus}-last-{len(kept)}")
    return done.returncode, done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("readers", nargs="*", metavar="READER", help="all, if none is named")
    parser.add_argument("--minutes", type=float, default=10, help="for each reader")
    parser.add_argument("--corpus", type=Path, default=Path("corpus"))
    parser.add_argument("--output", type=Path, help="folder of fuzz.json")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--option", action="append", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        fuzz(given.child, given.folder, given.option)
    machine = importlib.import_module("machine")
    output = given.output or machine.RESULTS
    for name in given.readers or readers():
        found = figures(name, given.minutes, given.corpus)
        path = output / "fuzz.json"
        before = json.loads(path.read_text(encoding="utf-8")).get("readers", {}) if path.exists() else {}
        machine.write("fuzz", {"readers": {**before, name: found}}, output, quiet=True)
        print(f"{name:<26} {json.dumps(found)}", flush=True)


if __name__ == "__main__":
    main()
