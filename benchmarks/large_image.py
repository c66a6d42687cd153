"""Memory and seconds of `patchmorph register` at 435×420×555 voxels: writes results/large-image.json.

    python benchmarks/large_image.py [--data FOLDER] [--types uint8 float32] [--source FOLDER]

Two brains are resampled to that many voxels each. The command runs in a process of its own, whose peak of
resident memory is what is reported: images, networks, results and libraries together. ``--source`` takes the
package from another checkout, to compare.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine
import torch

from patchmorph.images.volume import Image
from patchmorph.io.images import load_image, save_image
from patchmorph.spatial.affine import from_linear
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.resample import resample

SHAPE = (435, 420, 555)
COMMAND = """
import atexit, importlib
from patchmorph.cli import main  # before torch, which `machine` loads
atexit.register(lambda: print(importlib.import_module("machine").peak_gib()))
main()
"""


def enlarged(image: Image, dtype: str) -> Image:
    """The image over its own box, with `SHAPE` voxels."""
    ratio = torch.tensor([own / new for own, new in zip(image.grid.shape, SHAPE, strict=True)]).double()
    to_own = from_linear(torch.diag(ratio)[None], ((ratio - 1) / 2)[None])
    grid = Grid(SHAPE, image.grid.voxel_to_world @ to_own)
    fine = resample(image, AffineTransform.identity(), grid)
    return Image(fine.data.to(getattr(torch, dtype)), grid, image.name)


def measured(fixed: Path, moving: Path, output: Path, source: Path | None) -> dict[str, float]:
    """Peak GiB of the process, its seconds, and those that the summary has."""
    paths = [Path(__file__).parent, *([source / "src"] if source else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "register", str(fixed), str(moving), "-o", str(output)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - began
    summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    return {"peak_gib": float(done.stdout.split()[-1]), "seconds": seconds, **summary["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=machine.DATA / "t1-labelled")
    parser.add_argument("--types", nargs="*", default=["uint8", "float32"])
    parser.add_argument("--source", type=Path, help="a checkout whose package is measured")
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"shape": SHAPE}
    with tempfile.TemporaryDirectory() as name:
        for dtype in arguments.types:
            paths = [Path(name) / f"{person}-{dtype}.nii" for person in ("01", "02")]
            for path in paths:
                image = load_image(arguments.data / f"sub-{path.name[:2]}_T1w.nii.gz")
                save_image(enlarged(image, dtype), path)
            figures[dtype] = measured(paths[0], paths[1], Path(name) / dtype, arguments.source)
            print(dtype, figures[dtype], flush=True)
    machine.write("large-image", figures, arguments.output)


if __name__ == "__main__":
    main()
