"""The tools that `compare.py` runs, each a script of `benchmarks/peers` in an environment of its own.

The environments lie in ``.peers`` and are made on first use from the pinned ``peers/requirements/NAME.txt``.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import torch

from patchmorph.evaluation.labels import load_labels
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image, save_image
from patchmorph.registration.options import BEST, PRESETS
from patchmorph.spatial.grid import Grid

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "benchmarks" / "peers"
DEVICE = "DEVICE"
MODELS = "MODELS/"
"""Begins an argument that is a file in the folder of models that `full_volume.py` trained."""
WITHOUT_DEPENDENCIES = ("niftyreg",)
"""Environments whose package is there for the binaries that it carries."""
MARGIN = 16
"""Voxels around the fixed image whose coordinates are known, too: no inverse near it meets a border."""
_making = Lock()
_running: set[int] = set()


class Tool(NamedTuple):
    """A script and what it is called with.

    Attributes:
        environment: name of its requirements; none for the environment of the benchmark.
        is_slow: it takes over 5 minutes a pair on 2 cores.
    """

    script: str
    environment: str
    arguments: tuple[str, ...] = ()
    is_slow: bool = False

    @property
    def needs_models(self) -> bool:
        """Whether it registers by a model that is not packaged."""
        return any(argument.startswith(MODELS) for argument in self.arguments)


TOOLS = {
    "patchmorph": Tool("run_patchmorph.py", "", (DEVICE, "0")),
    "patchmorph-refine": Tool("run_patchmorph.py", "", (DEVICE, str(PRESETS[BEST].passes))),
    "greedy": Tool("run_greedy.py", "greedy"),
    "ants-syn": Tool("run_ants.py", "ants", ("SyN",)),
    "ants-syn-quick": Tool("run_ants.py", "ants", ("antsRegistrationSyNQuick[s]",)),
    "niftyreg": Tool("run_niftyreg.py", "niftyreg"),
    "dipy-syn": Tool("run_dipy.py", "dipy", is_slow=True),
    "demons": Tool("run_demons.py", "simpleitk"),
    "elastix": Tool("run_elastix.py", "elastix", ("5",)),
    "convexadam": Tool("run_convexadam.py", "convexadam", (DEVICE,)),
    "fireants": Tool("run_fireants.py", "fireants", (DEVICE,)),
    "ants-syn-cc": Tool("run_ants.py", "ants", ("antsRegistrationSyN[s]",), is_slow=True),
    "niftyreg-vel": Tool("run_niftyreg.py", "niftyreg", ("-vel",), is_slow=True),
    "greedy-nmi": Tool("run_greedy.py", "greedy", ("NMI",)),
    "full-volume-unet": Tool("run_full_volume.py", "", (DEVICE, f"{MODELS}unet.safetensors")),
    "full-volume-swin": Tool("run_full_volume.py", "", (DEVICE, f"{MODELS}swin.safetensors")),
    "patches": Tool("run_patchmorph.py", "", (DEVICE, "0", f"{MODELS}patches.safetensors")),
}


class ToolError(Exception):
    """A tool that failed or took too long; the message is one line."""


class Outcome(NamedTuple):
    """What a tool left.

    Attributes:
        warped: the moving labels on the fixed grid, ``[X, Y, Z]``.
        mapped: where the voxels of the fixed grid go (moving world, RAS+ mm), ``[1, X, Y, Z, 3]``.
        inverse: where the voxels of the moving grid go (fixed world), on that grid; none without an inverse.
        seconds: from reading the images to the end of the registration.
        peak_gib: largest memory until then.
    """

    warped: torch.Tensor
    mapped: torch.Tensor
    inverse: Image | None
    seconds: float
    peak_gib: float


def python_of(environment: str) -> Path:
    """The Python of an environment, which is made if it is not there."""
    if not environment:
        return Path(sys.executable)
    folder = ROOT / ".peers" / environment
    python = folder / "bin" / "python"
    with _making:
        if not python.exists():
            venv.create(folder, with_pip=True)
            needs = SCRIPTS / "requirements" / f"{environment}.txt"
            options = ["--no-deps"] if environment in WITHOUT_DEPENDENCIES else []
            try:
                subprocess.run([python, "-m", "pip", "install", "-q", *options, "-r", needs], check=True)
            except BaseException:
                shutil.rmtree(folder)
                raise
    return python


def write_coordinates(grid: Grid, folder: Path, prefix: str = "") -> None:
    """Write images on ``grid`` that hold the world coordinates of its voxels."""
    for axis, letter in enumerate("xyz"):
        save_image(Image(grid.points_world()[None, ..., axis], grid), folder / f"{prefix}{letter}.nii")


def run(
    name: str,
    pair: PairPaths,
    device: str = "cpu",
    cores: Sequence[int] = (),
    limit_seconds: float | None = None,
    models: Path | None = None,
) -> Outcome:
    """Register a pair by a tool.

    Args:
        cores: those that the tool may use; without any it may use two threads.
        models: folder of those that `full_volume.py` trained, for a tool that needs one.

    Raises:
        ToolError: the tool failed, or took longer than the limit.
    """
    tool = TOOLS[name]
    assert pair.moving_labels
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        labels = load_labels(pair.moving_labels)
        save_image(labels, folder / "labels.nii")
        write_coordinates(labels.grid, folder)
        write_coordinates(load_image(pair.fixed).grid.widened(MARGIN), folder, "fixed_")
        pinned = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
        arguments = [_given(argument, device, models) for argument in tool.arguments]
        script = [python_of(tool.environment), SCRIPTS / tool.script]
        _run([*pinned, *script, pair.fixed, pair.moving, folder, *arguments], limit_seconds)
        return _read(folder)


def _given(argument: str, device: str, models: Path | None) -> str:
    """What a tool's argument stands for."""
    if argument.startswith(MODELS):
        assert models is not None
        return str(models / argument.removeprefix(MODELS))
    return device if argument == DEVICE else argument


def stop(*_: object) -> None:
    """End all runs and this process; a handler of signals."""
    for group in list(_running):
        os.killpg(group, signal.SIGKILL)
    os._exit(1)


def _run(command: list[str | Path], limit_seconds: float | None) -> None:
    """Run a command with two threads."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "2")
    words = list(map(str, command))
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(
            words, stdout=output, stderr=output, env=os.environ | threads, start_new_session=True
        )
        _running.add(process.pid)
        status = _wait(process.pid, limit_seconds or math.inf)
        _running.discard(process.pid)
        output.seek(0)
        lines = [line.strip() for line in output if line.strip()]
    if status:
        raise ToolError(lines[-1][:200] if lines else f"ended with status {status}")


def _wait(group: int, limit_seconds: float) -> int:
    """Status of a process that leads a group, which is ended at the limit."""
    ends = time.monotonic() + limit_seconds
    while True:
        ended, status = os.waitpid(group, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() > ends:
            os.killpg(group, signal.SIGKILL)
            os.waitpid(group, 0)
            _running.discard(group)
            raise ToolError(f"took longer than {limit_seconds:.0f} s")
        time.sleep(0.05)


def _read(folder: Path) -> Outcome:
    mapped = [load_image(folder / f"{letter}_warped.nii").data[0, 0].float() for letter in "xyz"]
    inverse = None
    if (folder / "fixed_x_warped.nii").exists():
        images = [load_image(folder / f"fixed_{letter}_warped.nii") for letter in "xyz"]
        inverse = Image(torch.cat([image.data.float() for image in images], 1), images[0].grid)
    warped = load_labels(folder / "labels_warped.nii").data[0, 0].long()
    cost = json.loads((folder / "cost.json").read_text())
    return Outcome(warped, torch.stack(mapped, -1)[None], inverse, **cost)
