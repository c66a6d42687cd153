"""Long outputs that a killed process leaves unfinished and the next one goes on with.

The parts are written into a folder beside the output, with a ledger of those that are finished. When all are,
the folder's Zarr becomes the output; until then nothing of that name is there, or what was there before.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from patchmorph.errors import PatchMorphError
from patchmorph.io.atomic import check_zarr, whole_zarr, writing
from patchmorph.io.formats.chosen import chosen

PARTIAL = ".partial-"
"""Start of the name of the folder beside the output."""
LEDGER, LOCK, DATA = "finished.txt", "lock", "data"


class Ledger:
    """The finished parts of a job.

    Args:
        folder: of the job.
        job: its fingerprint; parts of another one are dropped.

    Attributes:
        data: where the parts are written.
    """

    def __init__(self, folder: Path, job: str):
        self.data, self._path = folder / DATA, folder / LEDGER
        text = self._path.read_text("utf-8", "replace") if self._path.exists() else ""
        lines = text.splitlines(keepends=True)
        if not lines or lines[0] != f"{job}\n":
            shutil.rmtree(self.data, ignore_errors=True)
            self._path.write_text(f"{job}\n")
            lines = []
        if lines and not lines[-1].endswith("\n"):  # which a kill cut
            self._path.write_text("".join(lines := lines[:-1]))
        self._done = {line.strip() for line in lines[1:]}

    def __len__(self) -> int:
        """Number of finished parts."""
        return len(self._done)

    def __contains__(self, part: int) -> bool:
        """Whether a part is finished."""
        return str(part) in self._done

    def add(self, part: int) -> None:
        """Record that a part is written."""
        self._done.add(str(part))
        with self._path.open("a") as file:
            file.write(f"{part}\n")


@contextmanager
def resumable(path: Path, job: Mapping[str, Any]) -> Iterator[Ledger]:
    """A ledger whose data become the Zarr ``path`` when the block succeeds.

    If it fails after some parts were finished, they are kept for the next process with the same job.

    Args:
        path: the output.
        job: plain data that determine the output, inputs as their `fingerprint`.

    Raises:
        PatchMorphError: ``path`` cannot be written, is no Zarr, or another process writes it.
    """
    text = hashlib.sha256(json.dumps(job, sort_keys=True, default=str).encode()).hexdigest()
    check_zarr(path)
    folder = path.with_name(f"{PARTIAL}{path.name}")
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
    ledger = None
    with _locked(folder / LOCK, path):
        try:
            with writing(path):
                ledger = Ledger(folder, text)
                yield ledger
                with whole_zarr(path) as temporary:
                    os.rename(ledger.data, temporary)
            ledger = None
        finally:
            if not ledger:
                shutil.rmtree(folder, ignore_errors=True)


def fingerprint(path: Path) -> list[Any]:
    """What tells a file or a Zarr from another one: name, and size and time of change of all its files."""
    place = chosen(path)
    if place.is_url:
        return [str(path)]
    files = [place.path] if place.path.is_file() else sorted(place.path.rglob("*"))
    changes = hashlib.sha256()
    for one in files:
        state = one.stat()
        changes.update(f"{one.relative_to(place.path)} {state.st_size} {state.st_mtime_ns}\n".encode())
    return [str(path.absolute()), changes.hexdigest()]


@contextmanager
def _locked(lock: Path, path: Path) -> Iterator[None]:
    """Hold the lock of an output; where the system has none, nothing is locked."""
    with writing(path), lock.open("w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass
        except BlockingIOError:
            raise PatchMorphError(f"output must be written by one process at a time, got {path}") from None
        yield
