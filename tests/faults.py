"""Faults of the machine: a full disk, and signals."""

import resource
import signal
from contextlib import contextmanager
from pathlib import Path

ROOM = 250
"""Bytes that a file may have where the disk is nearly full: fewer than in any output of the tests. The line
on standard error goes to a file, too: paths in it must be short."""


@contextmanager
def limited(size: int):
    """Files may have ``size`` bytes: what is written beyond fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def run_stopped(run, *arguments) -> int:
    """The exit status of a command that a signal stops; handlers are those of before."""
    kept = [(each, signal.getsignal(each)) for each in (signal.SIGINT, signal.SIGTERM)]
    try:
        return run(*arguments)[0]
    except KeyboardInterrupt:
        return 130
    finally:
        for each, handler in kept:
            signal.signal(each, handler)
