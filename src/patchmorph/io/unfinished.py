"""Temporary folders beside outputs: each is locked by the process that fills it, and removed once it is not.

A lock of the operating system (``flock``) ends with its process, however that ends, and is seen from other
computers where the file system supports it. Where there are no locks, nothing is removed.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

UNFINISHED = ".unfinished-"
"""Start of the names of temporary folders."""


@contextmanager
def unfinished_folder(place: Path) -> Iterator[Path]:
    """A new temporary folder in ``place``, removed at the end, as are those of processes that were killed.

    Raises:
        OSError: no permission, or a full disk.
    """
    clear_abandoned(place)
    folder, lock = _locked(place)
    try:
        yield folder
    except BaseException:
        _remove_until_gone(folder)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def clear_abandoned(place: Path) -> None:
    """Remove the temporary folders in ``place`` that no process holds."""
    for folder in place.glob(f"{UNFINISHED}*"):
        try:
            lock = os.open(folder, os.O_RDONLY)
        except OSError:  # removed meanwhile, or another user's
            continue
        try:
            if _lock(lock, wait=False):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Within the block no other process is within a block of the same folder, where there are locks.

    Raises:
        OSError: no such folder.
    """
    if fcntl is None:
        yield
        return
    lock = os.open(folder, os.O_RDONLY)
    try:
        _lock(lock, wait=True)
        yield
    finally:
        os.close(lock)


def _locked(place: Path) -> tuple[Path, int]:
    """A new folder and its lock; another process may have removed it before it was locked."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=place, prefix=UNFINISHED))
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        _lock(lock, wait=True)
        if folder.exists():
            return folder, lock
        os.close(lock)


def _remove_until_gone(folder: Path) -> None:
    """Remove a folder into which Zarr's threads may go on to write for a moment after one of them failed."""
    gone, until = 0, time.monotonic() + 5
    while gone < 3 and time.monotonic() < until:
        gone = 0 if folder.exists() else gone + 1
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.02)


def _lock(descriptor: int, wait: bool) -> bool:
    """Whether an open folder could be locked."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True
