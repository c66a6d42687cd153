"""What a command shows while it works: bars on a terminal, plain lines elsewhere, both on standard error."""

import logging
import sys
import threading
import time
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
TICK = 0.5
"""Seconds that a step lasts, at least, for a line of its own."""

console = Console(highlight=False, markup=False, soft_wrap=True)
"""Results go to standard output."""
errors = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
"""Progress, warnings and errors go to standard error."""

QUIET = {"-q", "--quiet"}

_verbosity = 0


def set_verbosity(level: int) -> None:
    """Choose what is shown: -1 warnings and errors, 0 progress and results, 1 also the time of each step."""
    global _verbosity
    _verbosity = level
    console.quiet = level < 0
    LOG.setLevel(_shown_level())


def _shown_level() -> int:
    return {-1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}[_verbosity]


class Messages(logging.Handler):
    """Prints what the package logs on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record unless the user wants less."""
        if record.levelno >= _shown_level():
            errors.print(self.format(record))


@contextmanager
def display() -> Iterator[None]:
    """Show the steps of the block and what it logs."""
    messages = Messages()
    LOG.addHandler(messages)
    set_verbosity(-1 if QUIET & set(sys.argv) else 0)  # libraries are loaded before options are read
    lines = Lines()
    listener: Listener = Bars() if errors.is_terminal else lines
    try:
        with listening(listener):
            yield
    finally:
        lines.close()
        LOG.removeHandler(messages)


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
    """Steps as plain lines: one for a step that lasts, and one whenever `SILENCE` has passed."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._printed: Step | None = None
        self._at = time.perf_counter()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def started(self, step: Step) -> None:
        """Show the step from the next tick on."""
        with self._lock:
            self._steps.append(step)
        if self._thread is None:
            self._at = time.perf_counter()
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def advanced(self, step: Step) -> None:
        """Nothing: the next line says how far it is."""

    def ended(self, step: Step) -> None:
        """Show the step no more."""
        with self._lock:
            self._steps.remove(step)

    def close(self) -> None:
        """End the thread that prints."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(TICK):
            with self._lock:
                step = self._steps[-1] if self._steps else None
            silent = time.perf_counter() - self._at
            if step is not None and (step is not self._printed or silent > SILENCE - TICK):
                self._print(step)

    def _print(self, step: Step) -> None:
        self._printed, self._at = step, time.perf_counter()
        if _verbosity < 0:
            return
        parts = f" {step.done}/{step.total}" if step.total else ""
        left = "" if step.seconds_left is None else f", {step.seconds_left:.0f} s left"
        print(f"{step.name}{parts}, {step.seconds:.0f} s{left}", file=sys.stderr, flush=True)
