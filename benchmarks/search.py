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
from patchmorph.registration.preparation import prepare_image, prepare_pair
from patchmorph.registration.stages.pose import PoseStage


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
    pair = prepare_pair(heads[0], heads[1], network)
    figures = {
        "search_seconds": timed(lambda: PoseStage().refine(pair, pair.center_shift()), arguments.runs),
        "brain_seconds": timed(lambda: prepare_image(heads[0], brain_network=network), arguments.runs),
    }
    machine.write(f"search-{device.type}", figures)


if __name__ == "__main__":
    main()
