"""Where a figure was measured, and where result files go."""

import json
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import patchmorph

RESULTS = Path(__file__).parent / "results"
DATA = Path(__file__).parents[2] / "shared" / "data"


def describe() -> dict[str, Any]:
    """Processor, GPU and versions."""
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "patchmorph": patchmorph.__version__,
    }


def label() -> str:
    """The machine in words: processor, cores and GPU."""
    known = describe()
    parts = [known["processor"], f"{os.cpu_count()} cores", *([known["gpu"]] if known["gpu"] else [])]
    return ", ".join(parts)


def write(name: str, figures: dict[str, Any], folder: Path = RESULTS, quiet: bool = False) -> None:
    """Write ``name.json`` with the figures, the machine and the day, and print it unless ``quiet``."""
    record = {"measured": datetime.now(UTC).date().isoformat(), "machine": describe(), **figures}
    text = json.dumps(record, indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    if not quiet:
        print(text)


def peak_gib() -> float:
    """Peak of this process's resident memory.

    That of ``getrusage`` is no smaller than the peak of the process that started this one.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 2**20


def seconds(function: Callable[[], object], runs: int) -> float:
    """Mean over ``runs`` of the time that the GPU takes."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(runs):
        function()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / runs


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
