"""The training loop."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from patchmorph.api import save_model
from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import check_folder
from patchmorph.io.images import load_image
from patchmorph.registration.model import PatchMorphModel
from patchmorph.training.augmentation import Draw
from patchmorph.training.checkpoint import FILE, TrainingState
from patchmorph.training.cohort import Cohort
from patchmorph.training.config import Optimization, TrainingConfig, image_paths
from patchmorph.training.gradients import CapturedStep
from patchmorph.training.step import Terms, chain_loss

FINAL_RATE = 0.03
"""Share of the learning rate that the cosine ends at."""


def train(config: TrainingConfig, device: torch.device, resume: bool = False) -> Path:
    """Train a model and return its file.

    The output folder gets ``log.jsonl`` (one line of means each ``log_every`` steps), a checkpoint each
    ``checkpoint_every`` steps and, after the last step, ``model.safetensors``.

    Raises:
        PatchMorphError: images or folders that cannot be used, or a loss that is not finite any more.
    """
    folder = config.folder / config.run.output
    check_folder(folder)
    if not resume and (folder / FILE).exists():
        raise PatchMorphError(f"output folder must be new, or --resume given, got a training in {folder}")
    torch.manual_seed(config.run.seed)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where streams and graphs are made
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = True
    images = [load_image(path) for path in image_paths(config)]
    cohort = Cohort(images, config.model.spacings_mm, device)
    model = PatchMorphModel(config.model).to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), weight_decay=config.optimization.weight_decay, fused=device.type == "cuda"
    )
    state = TrainingState(model, optimizer, torch.Generator().manual_seed(config.run.seed))
    if resume:
        state.load(folder)
    folder.mkdir(parents=True, exist_ok=True)
    finished = _run(state, cohort, config, folder, device)
    state.save(folder)
    path = folder / "model.safetensors"
    if finished:
        save_model(model, path, half=True)
    return path


def _run(
    state: TrainingState, cohort: Cohort, config: TrainingConfig, folder: Path, device: torch.device
) -> bool:
    """Steps until all are done (True) or the time is up (False)."""
    optimization, run = config.optimization, config.run
    gradients = _gradient_step(state, cohort, config, device)
    began = time.monotonic()
    with (
        Progress(
            BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
        ) as bar,
        (folder / "log.jsonl").open("a" if state.step else "w", encoding="utf-8") as log,
    ):
        task = bar.add_task("", total=optimization.steps, completed=state.step)
        window = _Window()
        while state.step < optimization.steps:
            window.add(gradients(_draw(state, cohort, config).to(device)))
            torch.nn.utils.clip_grad_norm_(state.model.parameters(), optimization.clip)
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate(state.step, optimization)
            state.optimizer.step()
            state.step += 1
            if state.step % run.log_every == 0 or state.step == optimization.steps:
                line = {"step": state.step, **window.close(device)}
                if not math.isfinite(line["loss"]):
                    raise PatchMorphError(f"loss must stay finite, got {line['loss']} at step {state.step}")
                log.write(json.dumps(line) + "\n")
                log.flush()
                description = (
                    f"loss {line['loss']:.3f}  {line['steps_per_second']:.1f}/s  {line['memory_gib']:.1f} GiB"
                )
                bar.update(task, completed=state.step, description=description)
            if state.step % run.checkpoint_every == 0:
                state.save(folder)
            if run.minutes is not None and time.monotonic() - began > 60 * run.minutes:
                return state.step >= optimization.steps
    return True


def _gradient_step(
    state: TrainingState, cohort: Cohort, config: TrainingConfig, device: torch.device
) -> Callable[[Draw], Terms]:
    """What turns a draw into gradients: eager on the CPU, a captured graph on CUDA."""

    def clear() -> None:
        state.optimizer.zero_grad(set_to_none=True)

    def eager(draw: Draw) -> Terms:
        clear()
        loss, terms = chain_loss(state.model, cohort, draw, config)
        loss.backward()
        return terms

    if device.type != "cuda":
        return eager
    scales, batch = len(config.model.spacings_mm), config.optimization.batch
    example = Draw.sample(len(cohort), batch, scales, 0.5, torch.Generator().manual_seed(0))
    return CapturedStep(eager, clear, example.to(device))


def _draw(state: TrainingState, cohort: Cohort, config: TrainingConfig) -> Draw:
    half = int(2 * state.step >= config.optimization.steps)
    return Draw.sample(
        len(cohort),
        config.optimization.batch,
        len(config.model.spacings_mm),
        config.pairs.same_person[half],
        state.generator,
    )


def learning_rate(step: int, config: Optimization) -> float:
    """Linear warm-up, then a cosine down to ``FINAL_RATE`` of the full rate."""
    warm = min(1.0, (step + 1) / max(1, config.warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return config.learning_rate * warm * (FINAL_RATE + (1 - FINAL_RATE) * cosine)


class _Window:
    """Means of the terms since the last line of the log; read from the device only when a line is due."""

    def __init__(self) -> None:
        self.sums: Terms = {}
        self.count = 0
        self.began = time.monotonic()

    def add(self, terms: Terms) -> None:
        for name, value in terms.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.count += 1

    def close(self, device: torch.device) -> dict[str, float]:
        means = {name: round((total / self.count).item(), 5) for name, total in self.sums.items()}
        seconds = time.monotonic() - self.began
        memory = torch.cuda.max_memory_reserved(device) if device.type == "cuda" else 0
        means |= {"steps_per_second": round(self.count / seconds, 2), "memory_gib": round(memory / 2**30, 2)}
        self.__init__()
        return means
