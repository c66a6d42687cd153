"""Progress of a training: a progress bar, ``log.jsonl`` and TensorBoard."""

import json
import time
from pathlib import Path
from types import TracebackType

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from patchmorph.io.atomic import whole_file
from patchmorph.training.gradients import Report

LOG = "log.jsonl"


class Record:
    """Means over the steps since the last line; they are copied from the GPU only when a line is due.

    Args:
        folder: of the run.
        step: steps completed before; log lines of later steps, left by a killed run, are dropped.
        steps: total number of steps.
        device: whose memory is reported.
        writes: whether this process writes files; one of several does.
    """

    def __init__(self, folder: Path, step: int, steps: int, device: torch.device, writes: bool = True):
        self.device = device
        self.writes = writes
        self._bar = Progress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=Console(quiet=not writes),
        )
        self._task = self._bar.add_task("starting", total=steps, completed=step)
        if writes:
            # Imported here because TensorBoard takes seconds to import.
            from torch.utils.tensorboard.writer import SummaryWriter

            _trim(folder / LOG, step)
            self._log = (folder / LOG).open("a", encoding="utf-8")
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._restart(step)

    def __enter__(self) -> "Record":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if self.writes:
            self._log.close()
            self._board.close()

    def add(self, report: Report) -> None:
        """Add the sums of a batch."""
        self._sums = report.sums.clone() if self._sums is None else self._sums + report.sums
        self._names = report.names

    def line(self, step: int, learning_rate: float, norm: Tensor, processes: int) -> None:
        """Write the means since the last line, over all processes, and the last gradient's norm."""
        assert self._sums is not None
        if processes > 1:
            torch.distributed.all_reduce(self._sums)
        sums, counts = self._sums
        means = (sums / counts.clamp(min=1)).tolist()
        memory = torch.cuda.max_memory_reserved(self.device) if self.device.type == "cuda" else 0
        figures = {
            **{
                name: round(mean, 5)
                for name, mean, count in zip(self._names, means, counts.tolist(), strict=True)
                if count
            },
            "learning_rate": round(learning_rate, 8),
            "gradient_norm": round(norm.item(), 4),
            "steps_per_second": round((step - self._step) / (time.monotonic() - self._began), 2),
            "memory_gib": round(memory / 2**30, 2),
        }
        self.write(step, figures)
        self._bar.update(
            self._task,
            completed=step,
            description=f"loss {figures['loss']:.3f}  {figures['steps_per_second']:.1f}/s"
            + (f"  {figures['memory_gib']:.1f} GiB" if memory else ""),
        )
        self._restart(step)

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Write values of a step to the log and TensorBoard."""
        if not self.writes:
            return
        self._log.write(json.dumps({"step": step, **figures}) + "\n")
        self._log.flush()
        for name, value in figures.items():
            self._board.add_scalar(name, value, step)

    def say(self, text: str) -> None:
        """Print a line above the progress bar."""
        self._bar.console.print(text, highlight=False, soft_wrap=True)

    def _restart(self, step: int) -> None:
        self._sums: Tensor | None = None
        self._names: tuple[str, ...] = ()
        self._step = step
        self._began = time.monotonic()


def _trim(path: Path, step: int) -> None:
    """Keep the lines up to ``step``; an incomplete last line is dropped, as is any that is none of a log."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text("utf-8", "replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, LookupError, TypeError, RecursionError):
            continue
    with whole_file(path) as temporary:  # keeps the log if the disk is full
        temporary.write_text("".join(kept), encoding="utf-8")
