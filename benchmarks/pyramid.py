"""What a training step of matching networks costs beside the U-Net's, 8 chains: writes results/pyramid.json.

    python benchmarks/pyramid.py 'IMAGES/*.nii' [--variants unet pyramid plain wide]

The step is that of `patchmorph train`: compiled, and replayed as a CUDA graph. ``plain`` is the pyramid
without its Triton kernels, ``wide`` one of more channels at the two finest levels.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import machine
import torch

from patchmorph.networks import matching
from patchmorph.networks.model import ModelSpec, NetworkSpec, PatchMorphModel
from patchmorph.spatial.compilation import compiling
from patchmorph.training.augmentation.draw import Draw
from patchmorph.training.config import Data, Run, TrainingConfig
from patchmorph.training.data.cohort import Cohort
from patchmorph.training.data.subjects import find_subjects
from patchmorph.training.gradients import CapturedStep, FlatGradients, add_gradients

CHAINS, SCALES = 8, 3
VARIANTS: dict[str, NetworkSpec] = {
    "unet": NetworkSpec(name="unet"),
    "pyramid": NetworkSpec(name="pyramid"),
    "plain": NetworkSpec(name="pyramid"),
    "wide": NetworkSpec(name="pyramid", options={"channels": [32, 40, 48, 64], "hidden": [48, 48, 40, 32]}),
}


def measure(pattern: str, variant: str) -> dict[str, Any]:
    matching.HAS_TRITON = variant != "plain"
    config = TrainingConfig(
        model=ModelSpec(dense=VARIANTS[variant]),
        data=Data(images=[str(Path(pattern).resolve())]),
        run=Run(output="unused"),
    )
    cuda = torch.device("cuda")
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    cohort = Cohort(find_subjects(config), config.model.spacings_mm, config.data, cuda)
    model = PatchMorphModel(config.model).to(cuda).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    gradients, generator = FlatGradients(model), torch.Generator().manual_seed(0)

    def draw() -> Draw:
        return Draw.sample(len(cohort), CHAINS, SCALES, 0.5, generator).to(cuda)

    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for part in filter(None, (model.affine, *model.dense)):
        part.compile()
    with compiling():
        captured = CapturedStep(lambda drawn: add_gradients(model, cohort, drawn, config), draw())
    compile_seconds = time.perf_counter() - began

    def step() -> None:
        gradients.buffer.zero_()
        captured(draw())
        gradients.finish(1, 1, config.optimization.clip)
        optimizer.step()

    machine.seconds(step, 10)
    return {
        "milliseconds": [1e3 * machine.seconds(step, 50) for _ in range(2)],
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
        "seconds_to_compile": compile_seconds,
        "parameters_a_stage": sum(p.numel() for p in model.dense[0].parameters()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()
    figures = {name: measure(arguments.images, name) for name in arguments.variants}
    machine.write("pyramid", {"chains": CHAINS, **figures}, arguments.output)


if __name__ == "__main__":
    main()
