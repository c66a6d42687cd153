"""The log of a run: what was asked for, each step with its time, and what was found."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patchmorph.progress import LOG

LOG_FILE = "patchmorph.log"


class RunLog:
    """Lines that the package logged, in the order of time."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def save(self, folder: Path) -> None:
        """Write `LOG_FILE`."""
        (folder / LOG_FILE).write_text(self.stream.getvalue(), encoding="utf-8")


@contextmanager
def recorded() -> Iterator[RunLog]:
    """Record what the package logs inside the block, whatever is shown of it."""
    log, level = RunLog(), LOG.level
    handler = logging.StreamHandler(log.stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.DEBUG)
    try:
        yield log
    finally:
        LOG.setLevel(level)
        LOG.removeHandler(handler)
