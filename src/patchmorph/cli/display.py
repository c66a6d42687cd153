"""What a command shows while it works: bars on a terminal, plain lines elsewhere, both on standard error."""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from patchmorph.progress import LOG, Listener, Step, listening

SILENCE = 2.0
"""Seconds without a line, at most, where there is no terminal."""

console = Console(highlight=False, markup=False, soft_wrap=True)
"""Results go to standard output."""
errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
"""Progress, warnings and errors go to standard error."""

_verbosity = 0


def set_verbosity(level: int) -> None:
    """Choose what is shown: -1 warnings and errors, 0 progress and results, 1 also the time of each step."""
    global _verbosity
    _verbosity = level
    console.quiet = level < 0
    LOG.setLevel(logging.DEBUG if level > 0 else logging.INFO)


@contextmanager
def display() -> Iterator[None]:
    """Show the steps of the block and what it logs."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOG.addHandler(handler)
    lines = Lines()
    listener: Listener = Bars() if errors.is_terminal else lines
    try:
        with listening(listener):
            yield
    finally:
        lines.close()
        LOG.removeHandler(handler)
        set_verbosity(0)


class Bars:
    """Steps as lines of a terminal that are redrawn: parts done, and time left."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._tasks: dict[Step, TaskID] = {}

    def started(self, step: Step) -> None:
        """Add a line."""
        if _verbosity < 0:
            return
        if self._progress is None:
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            self._progress = Progress(*columns, TimeRemainingColumn(), console=errors, transient=True)
            self._progress.start()
        self._tasks[step] = self._progress.add_task("  " * step.depth + step.name, total=step.total)

    def advanced(self, step: Step) -> None:
        """Move its bar."""
        if self._progress is not None and step in self._tasks:
            self._progress.update(self._tasks[step], completed=step.done)

    def ended(self, step: Step) -> None:
        """Remove its line; the display ends with the outermost step."""
        if self._progress is None or step not in self._tasks:
            return
        self._progress.remove_task(self._tasks.pop(step))
        if not self._tasks:
            self._progress.stop()
            self._progress = None


class Lines:
    """Steps as plain lines: one as an outer step begins, and one whenever `SILENCE` has passed."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._timer: threading.Timer | None = None
        self._lock = threading.RLock()

    def started(self, step: Step) -> None:
        """Print the step if it is an outer one."""
        with self._lock:
            self._steps.append(step)
            if step.depth < 2:
                self._print("  " * step.depth + step.name)

    def advanced(self, step: Step) -> None:
        """Nothing: the next line says how far it is."""

    def ended(self, step: Step) -> None:
        """Forget the step."""
        with self._lock:
            self._steps.remove(step)
            if not self._steps:
                self.close()

    def close(self) -> None:
        """Print no more."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None

    def _print(self, line: str) -> None:
        if _verbosity < 0:
            return
        print(line, file=sys.stderr, flush=True)
        self.close()
        self._timer = threading.Timer(SILENCE, self._remind)
        self._timer.daemon = True
        self._timer.start()

    def _remind(self) -> None:
        with self._lock:
            if not self._steps:
                return
            step = self._steps[-1]
            parts = f" {step.done}/{step.total}" if step.total else ""
            left = "" if step.seconds_left is None else f", {step.seconds_left:.0f} s left"
            self._print(f"{'  ' * step.depth}{step.name}{parts}, {step.seconds:.0f} s{left}")
