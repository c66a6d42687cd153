"""What the map of a pair depends on beside the images: writes results/determinism-{cpu,cuda}.json.

    python benchmarks/determinism.py [FIXED MOVING] [--device cpu|cuda] [--only NAME ...]

A pair is registered once, and again in each of the ways that must not matter: as before; on other numbers of
threads; with other batches of patches and poses; with little memory, so that fields lie in scratch files, and
with images that are read block by block besides, in blocks of two sizes. For each, the distance in mm between
where the two maps take the voxels of the fixed brain: the largest, the mean, and the share that is not
bit-identical. The default pair has no part in the accuracy that is reported.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import machine
import torch

import patchmorph
from patchmorph.images import chunked, windowed
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image, save_image
from patchmorph.networks import batches
from patchmorph.registration.result import Registration
from patchmorph.registration.stages import pose

STRIDE = 2
"""Every second voxel along each axis is compared."""
LITTLE_GIB = 0.05


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def patched(module: Any, **values: int) -> Iterator[None]:
    with ExitStack() as stack:
        for name, value in values.items():
            stack.enter_context(mock.patch.object(module, name, value))
        yield


def ways(images: list[Path], device: str, folder: Path) -> dict[str, Callable[[], Registration]]:
    """Each way of registering the pair, by name."""

    def registered(**options: Any) -> Registration:
        return patchmorph.register(load_image(images[0]), load_image(images[1]), device=device, **options)

    def within(context: Callable[[], Any]) -> Callable[[], Registration]:
        def run() -> Registration:
            with context():
                return registered()

        return run

    def block_by_block(side: int) -> Registration:
        stored = [folder / image.name.replace(".nii.gz", ".nii") for image in images]
        for image, path in zip(images, stored, strict=True):
            if not path.exists():
                save_image(load_image(image), path)
        with patched(chunked, BLOCK_SIDE=side, MAX_SIDE=2 * side), patched(windowed, BLOCK_SIDE=side):
            found = patchmorph.register(*stored, device=device, memory_limit=LITTLE_GIB)
        assert not found.moving.in_memory
        return found

    return {
        "again": registered,
        "2 threads": within(lambda: threads(2)),
        "3 threads": within(lambda: threads(3)),
        "patches one at a time": within(lambda: patched(batches, BATCH=1, CUDA_BATCH=1)),
        "patches by eight": within(lambda: patched(batches, BATCH=8, CUDA_BATCH=8)),
        "poses by five": within(lambda: patched(pose, CHUNK=5)),
        "blocks of 64": lambda: block_by_block(64),
        "blocks of 96": lambda: block_by_block(96),
        "little memory": lambda: registered(memory_limit=LITTLE_GIB),
    }


def places(registration: Registration, fixed: Image) -> torch.Tensor:
    """Where the map takes the voxels of the fixed brain, ``[n, 3]``, world mm."""
    chosen = (0, *[slice(None, None, STRIDE)] * 3)
    points = fixed.grid.points_world()[chosen][fixed.data[0][chosen] > 0]
    return registration.transform(points[None].to(registration.fixed.grid.device))[0].cpu()


def difference(first: torch.Tensor, second: torch.Tensor) -> dict[str, float]:
    distance = (first.double() - second.double()).norm(dim=-1)
    return {
        "max_mm": float(f"{distance.max():.3g}"),
        "mean_mm": float(f"{distance.mean():.3g}"),
        "share_not_identical": round(float((distance > 0).double().mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    brains = machine.DATA / "t1-labelled"
    default = [brains / "sub-03_T1w.nii.gz", brains / "sub-07_T1w.nii.gz"]
    parser.add_argument("images", nargs="*", type=Path, default=default, metavar="FIXED MOVING")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--only", nargs="*", help="ways by name")
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    given = parser.parse_args()
    found, expected, fixed = {}, None, load_image(given.images[0])
    with tempfile.TemporaryDirectory() as folder, threads(1):
        chosen = ways(given.images, given.device, Path(folder))
        for name in ["again", *(given.only or chosen)]:
            began = time.process_time()
            now = places(chosen[name](), fixed)
            if expected is None:
                expected = now
                continue
            found[name] = difference(expected, now)
            print(name, found[name], f"{time.process_time() - began:.0f} s of a processor", flush=True)
    pair = " and ".join(path.name.partition("_")[0] for path in given.images)
    machine.write(f"determinism-{given.device}", {"pair": pair, "ways": found}, given.output)


if __name__ == "__main__":
    main()
