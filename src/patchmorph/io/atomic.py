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
    """A temporary path (with the same ending) that becomes ``path`` when the block ends well."""
    make_folder(path.parent)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".unfinished-") as folder:
        temporary = Path(folder) / path.name
        yield temporary
        os.replace(temporary, path)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder whose files move into ``path`` when the block ends well; others there stay."""
    existed = path.exists()
    if existed and not path.is_dir():
        raise PatchMorphError(f"output must be a folder, got the file {path}")
    make_folder(path.parent)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=".unfinished-"))
    try:
        yield temporary
        path.mkdir(exist_ok=True)
        for item in sorted(temporary.iterdir()):
            os.replace(item, path / item.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        PatchMorphError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PatchMorphError(
            f"output must be in a folder that can be written, got {path}: {error.strerror}"
        ) from None
