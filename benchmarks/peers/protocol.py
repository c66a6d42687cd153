"""What a runner gets and leaves; standard library only, imported by every runner beside it.

A runner gets FIXED, MOVING (paths) and a FOLDER with images that its tool warps:

- ``labels.nii`` and ``x.nii``, ``y.nii``, ``z.nii``: the moving labels, and images on the moving grid that
  hold the world coordinates (RAS+ mm) of their voxels. They are pulled to the fixed grid.
- ``fixed_x.nii``, ``fixed_y.nii``, ``fixed_z.nii``: the same of the fixed grid, with a margin. A tool that
  has the inverse of its map pulls them to the moving grid.

It leaves ``NAME_warped.nii`` of each, and ``cost.json``: the seconds from reading the images to the end of
the registration, imports and the warping of these images excluded, and the largest memory until then.
"""

import json
import resource
import sys
import time
from pathlib import Path

FORWARD = ("labels", "x", "y", "z")
BACKWARD = ("fixed_x", "fixed_y", "fixed_z")
FIXED, MOVING = sys.argv[1:3]
FOLDER = Path(sys.argv[3])
ARGUMENTS = sys.argv[4:]


def source(name: str) -> str:
    """The image that is warped."""
    return str(FOLDER / f"{name}.nii")


def target(name: str) -> str:
    """Where it goes."""
    return str(FOLDER / f"{name}_warped.nii")


class Clock:
    """Starts when made; `stop` writes what the registration cost."""

    def __init__(self):
        self.began = time.perf_counter()

    def stop(self) -> None:
        cost = {"seconds": time.perf_counter() - self.began, "peak_gib": peak_gib()}
        (FOLDER / "cost.json").write_text(json.dumps(cost))


def peak_gib() -> float:
    """Largest memory of this process, or of one that it has run.

    ``ru_maxrss`` of a process itself begins with the memory of the one that started it.
    """
    status = Path("/proc/self/status").read_text()
    own = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 2**20
