"""Atomic output: files are written under a temporary name beside the target, then renamed.

Outputs are checked before work starts: none is an input, and none is a device, a pipe or a folder. A process
holds a lock on its temporary folders (see `patchmorph.io.unfinished`), so that what a killed one has left is
removed by the next that writes to the same place.
"""

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from patchmorph.errors import PatchMorphError
from patchmorph.io.unfinished import unfinished_folder

FOLDER_ENDING = ".zarr"
"""Ending of outputs that are folders."""
ZARR_MARKS = ("zarr.json", ".zgroup", ".zarray")
"""Files in every folder that is a Zarr, by its version."""
HEADER_ENDINGS = (".nhdr", ".mhd")
"""Endings of headers of images whose voxels are in a file beside them."""


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path (with the same ending) that becomes ``path`` when the block succeeds.

    The file of the voxels of a header is put in place first, so that no header is without its voxels.

    Raises:
        PatchMorphError: ``path`` cannot be written (no permission, a full disk), or is no regular file.
    """
    check_file(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished_folder(path.parent) as folder:
            temporary = folder / path.name
            yield temporary
            if (voxels := voxels_file(temporary)) is not None:
                os.replace(voxels, path.with_name(voxels.name))
            os.replace(temporary, path)


def voxels_file(path: Path) -> Path | None:
    """The file beside a header that holds its voxels; ``None`` where one file holds both."""
    return path.with_suffix(".raw") if path.suffix in HEADER_ENDINGS else None


@contextmanager
def whole_folder(path: Path, owned: Collection[str] = ()) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` when the block succeeds.

    If ``path`` exists, its files of the same names and those named in ``owned`` are replaced as a whole: a
    failure leaves the folder as it was. Its other files are kept.

    Args:
        path: the folder.
        owned: names of files that an earlier run may have left and this one may not write.

    Raises:
        PatchMorphError: ``path`` is a file, or cannot be written.
    """
    check_folder(path)
    with writing(path):
        place = path if path.exists() else path.parent  # on the same file system as the target
        place.mkdir(parents=True, exist_ok=True)
        with unfinished_folder(place) as temporary:
            yield temporary
            if path.exists():
                _exchange(temporary, path, owned)
            else:
                temporary.chmod(0o755)
                os.rename(temporary, path)


def _exchange(new: Path, folder: Path, owned: Collection[str]) -> None:
    """Move the files of ``new`` into ``folder`` and the files that they replace out of it, all or none."""
    names = sorted(item.name for item in new.iterdir())
    with unfinished_folder(folder) as old:
        replaced = [name for name in sorted({*names, *owned}) if os.path.lexists(folder / name)]
        moves = [(folder / name, old / name) for name in replaced]
        moves += [(new / name, folder / name) for name in names]
        done = []
        try:
            for source, target in moves:
                os.rename(source, target)
                done.append((source, target))
        except BaseException:
            for source, target in reversed(done):
                os.rename(target, source)
            raise


@contextmanager
def whole_tree(path: Path) -> Iterator[Path]:
    """A temporary folder that replaces the folder ``path`` and its contents when the block succeeds.

    Raises:
        PatchMorphError: ``path`` is a file, or cannot be written.
    """
    check_folder(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished_folder(path.parent) as folder:
            yield folder / "new"
            if path.exists():
                os.rename(path, folder / "old")
            os.rename(folder / "new", path)


@contextmanager
def whole_zarr(path: Path) -> Iterator[Path]:
    """`whole_tree` for a Zarr, which replaces nothing but another Zarr.

    Raises:
        PatchMorphError: ``path`` exists and is none, or cannot be written.
    """
    check_zarr(path)
    with whole_tree(path) as temporary:
        yield temporary


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path | None]) -> None:
    """Check, before any work starts, that outputs are new or regular files, and none is an input.

    Args:
        outputs: files to be written, or Zarr folders; names and links are followed.
        inputs: files that are read; ``None`` where an option was not given.

    Raises:
        PatchMorphError: an output is an input or contains one, is another output, or is no regular file
            or Zarr.
    """
    outputs = list(outputs)
    check_no_input(outputs, inputs)
    written: list[Path] = []
    for output in outputs:
        (check_zarr if output.suffix == FOLDER_ENDING else check_file)(output)
        if real_path(output) in written:
            raise PatchMorphError(f"outputs must be different files, got {output} twice")
        written.append(real_path(output))


def check_no_input(outputs: Iterable[Path], inputs: Iterable[Path | None]) -> None:
    """Check that no output is an input.

    Args:
        outputs: files or folders to be written; names and links are followed.
        inputs: files that are read; ``None`` where an option was not given.

    Raises:
        PatchMorphError: an output is an input or contains one.
    """
    read = [path for path in inputs if path is not None and path.exists()]
    for output in outputs:
        for path in read:
            if (output.exists() and output.samefile(path)) or real_path(output) in real_path(path).parents:
                raise PatchMorphError(f"output must be another file than the inputs, got {output} for {path}")


def real_path(path: Path) -> Path:
    """The path without links; of a loop of links, a part of it, where ``Path.resolve`` raises an error."""
    return Path(os.path.realpath(path))


def check_file(path: Path) -> None:
    """Check that an output is new or replaces a regular file.

    Raises:
        PatchMorphError: a folder, a device, a pipe, or a header whose voxels would replace another's.
    """
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or pipe"
        raise PatchMorphError(f"output must be a file or new, got {kind}: {path}")
    voxels = voxels_file(path)
    if voxels is not None and voxels.exists() and not path.exists():
        raise PatchMorphError(f"voxels of {path} must be written to a new file, got another's: {voxels}")


def check_zarr(path: Path) -> None:
    """Check that an output is new or replaces a Zarr.

    Raises:
        PatchMorphError: a file, or another folder.
    """
    if path.exists() and not any((path / name).exists() for name in ZARR_MARKS):
        raise PatchMorphError(f"output must be new or a Zarr that it replaces, got {path}")


def check_folder(path: Path) -> None:
    """Check, before any work starts, that an output folder is not a file.

    Raises:
        PatchMorphError: it is a file, or a link to nothing.
    """
    if os.path.lexists(path) and not path.is_dir():
        kind = "file" if path.exists() else "broken link"
        raise PatchMorphError(f"output must be a folder, got the {kind} {path}")


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
