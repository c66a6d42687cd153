"""The folder that a registration leaves behind: images, transforms, report and summary."""

import json
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from patchmorph.evaluation.benchmark import measure
from patchmorph.io.atomic import whole_folder
from patchmorph.io.images import save_image
from patchmorph.io.transforms.formats import save_transform
from patchmorph.io.transforms.native import stored
from patchmorph.registration.result import Registration
from patchmorph.report.page import render_report


def write_registration(
    registration: Registration, folder: Path, seconds: dict[str, float], details: dict[str, Any]
) -> dict[str, Any]:
    """Write the files of the command-line contract, whole or not at all.

    ``warped.nii.gz``, ``transform.safetensors`` (fixed → moving world), the same for other tools as
    ``transform.h5`` with ``inverse_transform.h5``, ``report.html``, ``summary.json`` and, where it was asked
    for, ``uncertainty.nii.gz``.

    Args:
        registration: what to write.
        folder: made if it is not there; files of other names in it stay.
        seconds: time taken so far by each step.
        details: what else the summary shall say, such as versions and arguments.

    Returns:
        The summary.
    """
    began = time.perf_counter()
    warped = registration.warped()
    figures = measure(registration, warped, None, seconds["register"])
    with whole_folder(folder) as temporary:
        save_image(warped, temporary / "warped.nii.gz")
        transform = stored(registration.transform)  # which all files hold alike
        save_transform(transform, temporary / "transform.safetensors")
        save_transform(transform, temporary / "transform.h5")
        save_transform(transform.inverse(), temporary / "inverse_transform.h5")
        if registration.has_uncertainty:
            save_image(registration.uncertainty(), temporary / "uncertainty.nii.gz")
        summary = {
            "fixed": registration.fixed.name,
            "moving": registration.moving.name,
            "similarity_before": figures.ncc_before,
            "similarity_after": figures.ncc_after,
            "folding_percent": figures.folding_percent,
            "sd_log_jacobian": figures.sd_log_jacobian,
            "notes": list(registration.notes),
            "without_counterpart_percent": 100 * registration.missing,
            **details,
            "device": device_name(registration.fixed.grid.device),
            "peak_memory_gib": peak_memory_gib(registration.fixed.grid.device),
            "seconds": seconds,
        }
        (temporary / "report.html").write_text(render_report(registration, summary), encoding="utf-8")
        seconds["write"] = time.perf_counter() - began
        (temporary / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return summary


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's architecture with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def peak_memory_gib(device: torch.device) -> float:
    """Most memory held so far: reserved on the GPU, resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
