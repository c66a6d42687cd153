"""What a runner gets and leaves; standard library only, imported by every runner beside it.

A runner gets FIXED, MOVING (paths) and a FOLDER with images that its tool warps:

- ``labels.nii`` and ``x.nii``, ``y.nii``, ``z.nii``: the moving labels, and images on the moving grid that
  hold the world coordinates (RAS+ mm) of their voxels. They are pulled to the fixed grid.
- ``fixed_x.nii``, ``fixed_y.nii``, ``fixed_z.nii``: the same of the fixed grid, with a margin. A tool that
  has the inverse of its map pulls them to the moving grid.

It leaves ``NAME_warped.nii`` of each, and ``seconds.json``: the time from reading the images to the end of
the registration, imports and the warping of these images excluded.
"""

import json
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
    """Starts when made; `stop` writes the seconds."""

    def __init__(self):
        self.began = time.perf_counter()

    def stop(self) -> None:
        (FOLDER / "seconds.json").write_text(json.dumps(time.perf_counter() - self.began))
