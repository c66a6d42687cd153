"""The typed content of ``summary.json``."""

import json
import platform
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from patchmorph.errors import PatchMorphError, problems
from patchmorph.version import VERSION

SUMMARY = "summary.json"


@dataclass
class Summary:
    """What is said of a registration.

    Attributes:
        fixed: name of the fixed image.
        moving: name of the moving image.
        verdict: ``pass``, ``check`` (to be looked at) or ``fail`` (not to be used).
        reasons: of the verdict, one sentence each.
        similarity_before: correlation of intensities inside the fixed content, by the headers alone.
        similarity_after: the same after registration.
        folding_percent: voxels of the fixed content with a Jacobian determinant ≤ 0.
        sd_log_jacobian: standard deviation of the log-Jacobian there.
        evidence: figures of the verdict (see `patchmorph.registration.verdict.Evidence`).
        notes: one sentence each.
        without_counterpart_percent: fixed content beyond a truncated face of the moving image.
        arguments: of the command or call.
        versions: of this package, torch and Python.
        device: the GPU's name, or the processor's architecture with the number of threads.
        peak_memory_gib: most memory held: reserved on the GPU, resident on the CPU (``None`` on Windows).
        seconds: by step.
        files: paths of the images, relative to the folder of the summary.
        dice: overlap of the warped labels with those of the fixed image, by id, where both were given.
    """

    fixed: str
    moving: str
    verdict: str
    reasons: list[str]
    similarity_before: float
    similarity_after: float
    folding_percent: float
    sd_log_jacobian: float
    evidence: dict[str, float]
    notes: list[str]
    without_counterpart_percent: float
    arguments: dict[str, Any]
    versions: dict[str, str]
    device: str
    peak_memory_gib: float | None
    seconds: dict[str, float]
    files: dict[str, str] = field(default_factory=dict)
    dice: dict[str, float] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write ``summary.json``."""
        text = json.dumps(asdict(self), indent=2, allow_nan=True) + "\n"
        (folder / SUMMARY).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Summary":
        """Read ``summary.json``.

        Raises:
            PatchMorphError: no results folder, or not one of a registration.
        """
        path = folder / SUMMARY
        if not path.is_file():
            raise PatchMorphError(f"results folder must hold {SUMMARY}, got none in {folder}")
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes(), strict=True)
        except ValidationError as error:
            got = f"{path}: {problems(error)}"
            raise PatchMorphError(f"summary must be that of a registration, got {got}") from None


def versions() -> dict[str, str]:
    """Versions of this package and of what it runs on."""
    return {"patchmorph": VERSION, "torch": torch.__version__, "python": platform.python_version()}


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's architecture with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def peak_memory_gib(device: torch.device) -> float | None:
    """Most memory held so far: reserved on the GPU, resident on the CPU (``None`` on Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows has no such module
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
