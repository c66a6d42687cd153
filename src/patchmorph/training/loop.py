"""The training loop, for one process or several, started with ``torchrun`` or ``accelerate launch``."""

import atexit
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.catalogue import load_model, packaged_models, save_model
from patchmorph.errors import PatchMorphError, one_line
from patchmorph.io.atomic import check_folder, check_outputs, whole_file, writing
from patchmorph.io.extras import extra
from patchmorph.networks.blocks import set_recompute
from patchmorph.networks.contract import check_answer
from patchmorph.networks.model import PatchMorphModel
from patchmorph.spatial.compilation import can_compile, compiling
from patchmorph.training.augmentation.contrast import check_labels
from patchmorph.training.augmentation.draw import Draw
from patchmorph.training.checkpoint import FILE, TrainingState
from patchmorph.training.config import TrainingConfig
from patchmorph.training.data.cohort import Cohort
from patchmorph.training.data.subjects import find_subjects
from patchmorph.training.finite import FiniteWatch
from patchmorph.training.gradients import CapturedStep, FlatGradients, Report, add_gradients
from patchmorph.training.interruption import Interruption, deferred
from patchmorph.training.record import Record
from patchmorph.training.validation import BEST, Validator

MODEL = "model.safetensors"
PROCESS_TIMEOUT = timedelta(hours=12)
"""Time limit of collective operations: the others wait while one process validates or reads."""
STOP_CHECK_EVERY = 10
"""Steps on GPUs between checks whether any process should stop."""
MAX_RADIUS_RATIO = 1.6
"""Largest ratio between the radius of the training images and the model's reference radius."""


def train(
    config: TrainingConfig, device: torch.device, resume: bool = False, trust: Sequence[str] = ()
) -> None:
    """Train a model, or resume a training.

    ``trust`` are classes that the files of initial weights may name beside those that the configuration names
    (see `patchmorph.catalogue.load_model`).

    The output folder receives ``config.json``, ``log.jsonl`` and ``tensorboard`` (means every ``log_every``
    steps), a checkpoint every ``checkpoint_every`` steps and at a stop, ``best.safetensors`` if validation is
    configured and, after the last step, ``model.safetensors``.

    Raises:
        PatchMorphError: the extra ``train`` is not installed, images or folders cannot be used, or a loss or
            gradient is not finite.
    """
    folder = config.folder / config.run.output
    check_folder(folder)
    if not resume and (folder / FILE).exists():
        raise PatchMorphError(f"output folder must be new, or --resume given, got a training in {folder}")
    weights = [config.folder / name for name in (config.run.weights, config.run.affine_weights) if name]
    check_outputs([folder / name for name in (FILE, BEST, MODEL)], weights)
    extra("tensorboard", "train")
    processes = extra("accelerate", "train").PartialState(cpu=device.type == "cpu", timeout=PROCESS_TIMEOUT)
    if processes.num_processes > 1:
        atexit.register(_leave_processes)
    processes.wait_for_everyone()  # all check the folder before any writes into it
    if processes.num_processes > 1:
        device = torch.device(processes.device or device)
    elif device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
    training = Training(config, device, processes, folder, resume, trust)
    with deferred() as interruption, writing(folder):
        training.run(interruption)


def _leave_processes() -> None:
    """End the process group; its threads may abort an interpreter that ends while they run."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


class Training:
    """The part of a training that one process runs.

    Attributes:
        processes: a ``PartialState`` of accelerate.
        state: contents of a checkpoint.
        cohort: the images.
        validator: in the main process, if validation is configured.
    """

    def __init__(
        self,
        config: TrainingConfig,
        device: torch.device,
        processes: Any,
        folder: Path,
        resume: bool = False,
        trust: Sequence[str] = (),
    ):
        if device.type == "cuda":
            torch.cuda.set_device(device)  # device of new streams and graphs
            torch.backends.cudnn.benchmark = True
            torch.backends.cudnn.allow_tf32 = True
        self.config, self.device, self.processes, self.folder = config, device, processes, folder
        # Errors in the configuration are raised before images are read.
        subjects = find_subjects(config)
        self.state = _initial_state(config, device, trust)
        if resume:
            self.state.load(folder)
        done, steps = self.state.step, config.optimization.steps
        if done > steps:
            raise PatchMorphError(
                f"optimization.steps must be at least the {done} that are done, got {steps}"
            )
        self.cohort = Cohort(
            subjects, config.model.spacings_mm, config.data, device, config.run.seed, self.state.step
        )
        _check_cohort(self.cohort, config)
        self.validator = None
        if config.validation and processes.is_main_process:
            self.validator = Validator(config.validation, config, folder, device)

    def run(self, interruption: Interruption) -> None:
        """Train until the last step, the time limit or a requested stop; then write a checkpoint."""
        state, config, main = self.state, self.config, self.processes.is_main_process
        ranks, steps = self.processes.num_processes, config.optimization.steps
        if main:
            with whole_file(self.folder / "config.json") as file:
                file.write_text(config.model_dump_json(indent=2), encoding="utf-8")
        began = time.monotonic()
        gradients = FlatGradients(state.model)
        add_batch = self._batch_step()
        watch = FiniteWatch(self.cohort)
        with Record(self.folder, state.step, steps, self.device, main) as record:
            record.say(self.cohort.where())
            while state.step < steps:
                draw, rate = self._draw(), config.optimization.rate(state.step)
                losses, norm = self._step(draw, rate, add_batch, gradients, record)
                watch.add(state.step, draw, losses, norm)
                watch.check()
                late = config.run.minutes is not None and time.monotonic() - began > 60 * config.run.minutes
                stop = self._agreed(interruption.asked or late)
                if self._is_due(config.run.log_every) or stop:
                    record.line(state.step, rate, norm, ranks)
                save = self._is_due(config.run.checkpoint_every) or stop
                if self.validator and self._is_due(self.validator.settings.every):
                    figures, best = self.validator.run(state)
                    record.write(state.step, figures)
                    save = save or best  # a resumed run must have the best result
                if save:
                    watch.check(all_of_them=True)
                    self._save()
                if stop:
                    break
            if state.step == steps and not (self.folder / MODEL).exists():
                self._save()  # a finished training, resumed after its model was moved away
            record.say(
                f"wrote {self.folder / MODEL}"
                if state.step == steps
                else f"stopped with a checkpoint after step {state.step}; --resume goes on"
            )

    def _step(
        self,
        draw: Draw,
        rate: float,
        add_batch: Callable[[Draw], Report],
        gradients: FlatGradients,
        record: Record,
    ) -> tuple[Float[Tensor, " b"], Float[Tensor, ""]]:
        """One step of the optimiser: the losses of its chains, and the norm of the gradient."""
        state, config = self.state, self.config.optimization
        self.cohort.advance(state.step)
        gradients.buffer.zero_()
        losses = []
        for first in range(0, len(draw.fixed_index), config.batch):
            report = add_batch(draw.part(first, config.batch).to(self.device))
            losses.append(report.losses.clone())  # a captured step overwrites its report
            record.add(report)
        norm = gradients.finish(len(losses), self.processes.num_processes, config.clip)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        state.optimizer.step()
        state.step += 1
        return torch.cat(losses), norm

    def _save(self) -> None:
        if not self.processes.is_main_process:
            return
        if self.state.step == self.config.optimization.steps:  # the checkpoint is last: then all is done
            save_model(self.state.model, self.folder / MODEL, half=True)
        self.state.save(self.folder)

    def _is_due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.config.optimization.steps

    def _agreed(self, stop: bool) -> bool:
        """Whether any process should stop; with several, checked only every few steps, as it synchronizes."""
        if self.processes.num_processes == 1:
            return stop
        if not self._is_due(STOP_CHECK_EVERY if self.device.type == "cuda" else 1):
            return False
        stops = torch.tensor(float(stop), device=self.device)
        torch.distributed.all_reduce(stops)
        return stops.item() > 0

    def _draw(self) -> Draw:
        """This process's part of the step's draw; the whole draw is the same in every process."""
        config = self.config.optimization
        half = int(2 * self.state.step >= config.steps)
        count = config.batch * config.accumulate
        whole = Draw.sample(
            len(self.cohort),
            count * self.processes.num_processes,
            len(self.config.model.spacings_mm),
            self.config.pairs.same_person[half],
            self.state.generator,
            self.config.augmentation.contrast > 0,
        )
        return whole.part(count * self.processes.process_index, count)

    def _batch_step(self) -> Callable[[Draw], Report]:
        """The function that adds the gradients of a draw: eager on the CPU, a captured graph on CUDA."""
        model, config = self.state.model, self.config

        def eager(draw: Draw) -> Report:
            return add_gradients(model, self.cohort, draw, config)

        if self.device.type != "cuda":
            return eager
        if config.run.compile and can_compile():
            for network in filter(None, (model.affine, *model.dense)):
                network.compile()
        scales, batch = len(config.model.spacings_mm), config.optimization.batch
        contrasts, generator = config.augmentation.contrast > 0, torch.Generator().manual_seed(0)
        example = Draw.sample(len(self.cohort), batch, scales, 0.5, generator, contrasts)
        with compiling(config.run.compile):
            return CapturedStep(eager, example.to(self.device))


def _initial_state(config: TrainingConfig, device: torch.device, trust: Sequence[str] = ()) -> TrainingState:
    torch.manual_seed(config.run.seed)
    model = PatchMorphModel(config.model).to(device)
    # A class that the configuration names is the user's own word.
    trusted = [*trust, *(network.name for network in config.model.networks if ":" in network.name)]
    for key in ("weights", "affine_weights"):
        name = getattr(config.run, key)
        if name:
            path = name if name in packaged_models() else config.folder / name
            _copy_weights(model, load_model(path, str(device), trusted), key, name)
    if config.optimization.freeze_affine and model.affine is not None:
        model.affine.requires_grad_(False)
    size = config.model.patch_size
    for network in filter(None, (model.affine, model.dense[0])):
        check_answer(network, size, affine=network is model.affine)
    for scale in config.optimization.recompute:
        set_recompute(model.dense[scale], True)
    optimizer = torch.optim.AdamW(
        model.parameters(), weight_decay=config.optimization.weight_decay, fused=device.type == "cuda"
    )
    return TrainingState(model.train(), optimizer, torch.Generator().manual_seed(config.run.seed))


def _copy_weights(model: PatchMorphModel, given: PatchMorphModel, key: str, name: str) -> None:
    """Start with the weights of another model, of all networks or of the affine one."""
    pair = (model, given) if key == "weights" else (model.affine, given.affine)
    try:
        if pair[0] is None or pair[1] is None:
            raise RuntimeError("one of the two has no affine network")
        pair[0].load_state_dict(pair[1].state_dict())
    except RuntimeError as error:
        raise PatchMorphError(
            f"run.{key} must be of the configured networks, got {name}: {one_line(error)}"
        ) from None


def _check_cohort(cohort: Cohort, config: TrainingConfig) -> None:
    """Reject loss terms without data, and spacings that registration would not use on such images."""
    for term, available in (
        ("overlap", cohort.labels is not None),
        ("landmarks", cohort.landmarks.shape[1] > 0),
    ):
        weight = getattr(config.objective, term)
        if weight and not available:
            raise PatchMorphError(f"objective.{term} must be 0 where no subject has any, got {weight:g}")
    if config.augmentation.contrast:
        check_labels(cohort.label_count)
    radius, reference = median(cohort.radius_mm), config.model.reference_radius_mm
    if reference is not None and not 1 / MAX_RADIUS_RATIO < radius / reference < MAX_RADIUS_RATIO:
        raise PatchMorphError(
            f"model.reference_radius_mm must be near the images' own, {radius:.3g} (registration scales "
            f"model.spacings_mm by their ratio), or null, got {reference:g}"
        )
