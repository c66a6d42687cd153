"""Training steps a second at 8 chains, and their memory: writes results/training.json.

    python benchmarks/training.py 'IMAGES/*.nii' [--networks unet swin] [--plain]

The step is that of `patchmorph train`: compiled, and replayed as a CUDA graph. ``--plain`` also measures it
without either.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import machine
import torch

from patchmorph.networks.model import ModelSpec, NetworkSpec, PatchMorphModel
from patchmorph.spatial.compilation import compiling
from patchmorph.training.augmentation.draw import Draw
from patchmorph.training.config import Data, Run, TrainingConfig
from patchmorph.training.data.cohort import Cohort
from patchmorph.training.data.subjects import find_subjects
from patchmorph.training.gradients import CapturedStep, FlatGradients, Report, add_gradients

CHAINS = 8
CUDA = torch.device("cuda")


def measure(pattern: str, network: str, plain: bool) -> dict[str, float]:
    config = TrainingConfig(
        model=ModelSpec(dense=NetworkSpec(name=network)),
        data=Data(images=[str(Path(pattern).resolve())]),
        run=Run(output="unused"),
    )
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = True
    cohort = Cohort(find_subjects(config), config.model.spacings_mm, config.data, CUDA)
    model = PatchMorphModel(config.model).to(CUDA).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    gradients = FlatGradients(model)
    generator = torch.Generator().manual_seed(0)

    def draw() -> Draw:
        return Draw.sample(len(cohort), CHAINS, len(config.model.spacings_mm), 0.5, generator).to(CUDA)

    def eager(drawn: Draw) -> Report:
        return add_gradients(model, cohort, drawn, config)

    def step(add: Callable[[Draw], Report]) -> Callable[[], object]:
        def run() -> None:
            gradients.buffer.zero_()
            add(draw())
            gradients.finish(1, 1, config.optimization.clip)
            optimizer.step()

        return run

    figures: dict[str, float] = {"chains": CHAINS}
    if plain:
        machine.seconds(step(eager), 3)
        figures["steps_per_second_plain"] = 1 / machine.seconds(step(eager), 10)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    for part in filter(None, (model.affine, *model.dense)):
        part.compile()
    with compiling():
        captured = step(CapturedStep(eager, draw()))
    figures["seconds_to_compile"] = time.perf_counter() - began
    machine.seconds(captured, 10)
    figures["steps_per_second"] = 1 / machine.seconds(captured, 100)
    figures["reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images")
    parser.add_argument("--networks", nargs="+", default=["unet", "swin"])
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--output", type=Path, default=machine.RESULTS)
    arguments = parser.parse_args()
    figures = {name: measure(arguments.images, name, arguments.plain) for name in arguments.networks}
    machine.write("training", figures, arguments.output)


if __name__ == "__main__":
    main()
