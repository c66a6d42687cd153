"""Time, memory and error of registrations from 128³ to 2048³ voxels: writes results/scale-{cpu,cuda}.json.

    python benchmarks/scale.py [--size 256 512 ...] [--finest native|model|MM] [--device cpu|cuda]
        [--memory-limit GIB] [--gpu-memory-limit GIB] [--folder SCRATCH] [--shared]

Registers the object of `phantom` to itself after a known map. Both images are written block by block as
uncompressed NIfTI files (uint16), which takes 4 · size³ bytes in ``--folder``. Each registration runs in a
process of its own, whose peak of resident memory is reported, libraries included. A size that is there
already in the results is measured again; others stay. ``--shared``: the machine does something else, too: no
seconds kept. On 2 CPU cores ``--size 128`` takes a minute.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import machine
import nibabel
import numpy as np
import phantom
import torch

from patchmorph import api
from patchmorph.images.cache import CACHE
from patchmorph.transforms.base import Transform
from patchmorph.transforms.velocity import VelocityField

SIDE = 128
"""Of the blocks by which images are made."""


def write_image(path: Path, size: int, moving: bool, device: str) -> None:
    """An image of `phantom` as a file, block by block."""
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint16)
    header.set_data_shape((size,) * 3)
    header.set_xyzt_units("mm")
    header.set_sform(phantom.grid_of(size).voxel_to_world[0].numpy(), 1)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path.write_bytes(header.binaryblock + bytes(4))
    shape = (size,) * 3
    voxels = np.memmap(path, np.uint16, "r+", offset=352, shape=shape, order="F")
    for box, values in phantom.blocks(size, moving, device, SIDE):
        voxels[box.slices] = values.permute(2, 1, 0).contiguous().cpu().numpy().T  # the file's order
    voxels.flush()


def make_images(folder: Path, size: int) -> None:
    """Both images, side by side, on the GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with ThreadPoolExecutor(2) as pool:
        made = [
            pool.submit(write_image, folder / f"{side}.nii", size, side == "moving", device)
            for side in ("fixed", "moving")
        ]
    for one in made:
        one.result()


def measured(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Register the two files of a folder, in this process."""
    torch.manual_seed(0)
    words = {"native": "native", "model": None}
    finest = words[arguments.finest] if arguments.finest in words else float(arguments.finest)
    began = time.perf_counter()
    found = api.register(
        folder / "fixed.nii",
        folder / "moving.nii",
        model=arguments.model,
        device=arguments.device,
        finest=finest,
        memory_limit=arguments.memory_limit,
        gpu_memory_limit=arguments.gpu_memory_limit,
    )
    seconds = time.perf_counter() - began
    read = sum(CACHE.bytes_read.values())  # 0 where the images were read whole
    held = sum(store.nbytes for store in CACHE.bytes_read)
    cuda = arguments.device == "cuda"
    return {
        "peak_gib": machine.peak_gib(),
        "voxel_mm": min(found.fixed.spacing_mm),
        "seconds": seconds,
        "peak_gpu_gib": torch.cuda.max_memory_allocated() / 2**30 if cuda else None,
        "chunks_read_gib": read / 2**30,
        "chunks_read_of_the_levels_used": held and read / held,
        "stages": [stage(transform) for transform in found.history],
    }


def stage(transform: Transform) -> dict[str, float | None]:
    """What a stage left: its finest patches, and the distance to the known map, mm."""
    fields = [part for part in transform.parts() if isinstance(part, VelocityField)]
    finest = min((float(field.grid.spacing_mm.min()) / 2 for field in fields), default=None)
    device = fields[0].grid.device if fields else transform.affine_part().matrix.device
    errors = phantom.errors_mm(transform.to(device), device).cpu()
    median = float(errors.median())
    return {
        "finest_mm": finest,
        "median_mm": median,
        "p90_mm": float(errors.quantile(0.9)),
        "median_voxels": finest and median / finest,
    }


def registered(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """`measured` in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--inside", str(folder)]
    text = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(text.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", nargs="*", type=int, default=[256, 512])
    parser.add_argument("--finest", default="native")
    parser.add_argument("--model", default="t1-brain")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory-limit", type=float)
    parser.add_argument("--gpu-memory-limit", type=float)
    parser.add_argument("--folder", type=Path, help="for the images; by default that of temporary files")
    parser.add_argument("--shared", action="store_true", help="keep no seconds")
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(measured(arguments.inside, arguments)))
        return
    name = f"scale-{arguments.device}"
    path = arguments.output / f"{name}.json"
    figures = json.loads(path.read_text()) if path.exists() else {"sizes": {}}
    for size in arguments.size:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            began = time.perf_counter()
            make_images(Path(folder), size)
            made = time.perf_counter() - began
            found = registered(Path(folder), arguments) | {"seconds_to_make_images": made}
        if arguments.shared:
            found |= {"seconds": None, "seconds_to_make_images": None}
        chosen = {key: getattr(arguments, key) for key in ("finest", "memory_limit", "gpu_memory_limit")}
        figures["sizes"][str(size)] = chosen | {"machine": machine.describe()} | found
        machine.write(name, {"sizes": figures["sizes"]}, arguments.output)


if __name__ == "__main__":
    main()
