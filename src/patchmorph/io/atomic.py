"""Atomic output: files are written under a temporary name beside the target, then renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patchmorph.errors import PatchMorphError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path (with the same ending) that becomes ``path`` when the block succeeds.

    Raises:
        PatchMorphError: ``path`` cannot be written (no permission, a full disk, a folder of that name).
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as folder:
            temporary = Path(folder) / path.name
            yield temporary
            os.replace(temporary, path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` when the block succeeds.

    If ``path`` exists, files of the same name are replaced and its other files are kept.

    Raises:
        PatchMorphError: ``path`` is a file, or cannot be written.
    """
    check_folder(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=".unfinished-"))
        try:
            yield temporary
            temporary.chmod(0o755)
            if path.exists():
                for item in sorted(temporary.iterdir()):
                    os.replace(item, path / item.name)
            else:
                os.rename(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def whole_tree(path: Path) -> Iterator[Path]:
    """A temporary folder that replaces the folder ``path`` and its contents when the block succeeds.

    Raises:
        PatchMorphError: ``path`` is a file, or cannot be written.
    """
    check_folder(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as folder:
            yield Path(folder) / "new"
            if path.exists():
                os.rename(path, Path(folder) / "old")
            os.rename(Path(folder) / "new", path)


def check_folder(path: Path) -> None:
    """Check, before any work starts, that an output folder is not a file.

    Raises:
        PatchMorphError: it is a file.
    """
    if path.exists() and not path.is_dir():
        raise PatchMorphError(f"output must be a folder, got the file {path}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn any ``OSError`` in the block into a one-line error about ``path``.

    Raises:
        PatchMorphError: no permission, a full disk, a folder of that name.
    """
    try:
        yield
    except OSError as error:
        raise PatchMorphError(f"output must be in a place that can be written, got {path}: {error}") from None
