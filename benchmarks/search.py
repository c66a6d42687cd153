"""Seconds that the search over all poses takes, and finding brains in heads before it.

    python benchmarks/search.py [--device auto|cpu|cuda] [--runs N]

Two people of ``t1-whole-head``. Writes the medians into results/search-DEVICE.json.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import machine
import torch

from patchmorph import api
from patchmorph.io.images import load_image
from patchmorph.registration.brain import prepared
from patchmorph.registration.stages.pose import PoseStage
from patchmorph.transforms.affine import AffineTransform


def timed(function: Callable[[], object], runs: int) -> float:
    def once() -> float:
        began = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - began

    once()
    return median(once() for _ in range(runs))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    device = api.choose_device(arguments.device)
    network = api.load_brain_mask(device)
    paths = [machine.DATA / "t1-whole-head" / f"sub-{person}_T1w.nii.gz" for person in ("01", "02")]
    heads = [load_image(path).to(device) for path in paths]
    a, b = (prepared(head, None, network) for head in heads)
    shift = AffineTransform.translation(b.content.center_world - a.content.center_world)
    search = PoseStage(a.content, b.content)
    figures = {
        "search_seconds": timed(lambda: search.refine(a.image, b.image, shift), arguments.runs),
        "brain_seconds": timed(lambda: prepared(heads[0], None, network), arguments.runs),
    }
    machine.write(f"search-{device.type}", figures)


if __name__ == "__main__":
    main()
