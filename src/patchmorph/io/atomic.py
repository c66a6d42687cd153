"""Outputs appear whole or not at all: written under a temporary name beside the target, then renamed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from patchmorph.errors import PatchMorphError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path (with the same ending) that becomes ``path`` when the block ends well.

    Raises:
        PatchMorphError: the file system refuses (no right, no room, a folder in the way).
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as folder:
            temporary = Path(folder) / path.name
            yield temporary
            os.replace(temporary, path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` when the block ends well.

    Where ``path`` is there already its other files stay, and each new file replaces its namesake.

    Raises:
        PatchMorphError: ``path`` is a file, or the file system refuses.
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
    """A temporary folder that replaces the folder ``path`` and all in it when the block ends well.

    Raises:
        PatchMorphError: ``path`` is a file, or the file system refuses.
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
    """Refuse an output folder that is a file, before any work is done for it."""
    if path.exists() and not path.is_dir():
        raise PatchMorphError(f"output must be a folder, got the file {path}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within the block, what the file system refuses is said in one line about ``path``.

    Raises:
        PatchMorphError: no right, no room, a folder in the way.
    """
    try:
        yield
    except OSError as error:
        raise PatchMorphError(f"output must be in a place that can be written, got {path}: {error}") from None
