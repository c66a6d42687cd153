"""HDF5 files: those of others hold all their numbers themselves, and the numbers that they announce.

HDF5 can take data from other files: by external storage of any bytes, by links, and by virtual data sets. A
file from elsewhere would so put any file of this computer into a result.

HDF5 crashes when it closes a file that it could not write. So its files are made in memory, or on a disk that
has room for them. It loops for ever over a global heap, which holds texts, with free space of no size or
objects beyond its end. So heaps are checked before a text is read. It crashes on sequences and references
whose places are those of no heap. So there may be texts, but nothing else of that kind.
"""

import math
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue]

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.io.streams import MOST_PER_BYTE

MAX_OBJECTS = 20_000
"""Groups and data sets of a file: a thousand times those of a long chain of transforms."""
HEAP, HEAP_HEAD = b"GCOL\x01", 8
"""Signature and version of a global heap, and bytes before the size of it and of each object in it
(https://docs.hdfgroup.org/hdf5/develop/_f_m_t3.html, III.E)."""
BLOCK_BYTES = 2**22
"""By which a file in memory grows."""


@contextmanager
def new_hdf5(path: Path) -> Iterator[h5py.File]:
    """A new file, which is made in memory and written when the block ends.

    Raises:
        OSError: it cannot be written, such as on a full disk.
    """
    with h5py.File(path, "w", driver="core", backing_store=False, block_size=BLOCK_BYTES) as file:
        yield file
        file.flush()
        whole = file.id.get_file_image()
    path.write_bytes(whole)


def check_room(path: Path, size: int) -> None:
    """Check, where the system can tell, that a new file may have ``size`` bytes.

    Raises:
        OSError: the disk is full, or the file may not be as large.
    """
    if hasattr(os, "posix_fallocate"):
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        path.unlink()


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """An open file, all of whose data sets and attributes are checked before one is read.

    Raises:
        PatchMorphError: data in other files or of a kind that HDF5 may crash on, numbers that the file cannot
            hold, or too many objects.
        OSError: no HDF5.
    """
    with h5py.File(path) as file:
        _check_heaps(file, path)
        _check(file, path)
        yield file


def _check_heaps(file: h5py.File, path: Path) -> None:
    wide = file.id.get_create_plist().get_sizes()[1]
    with path.open("rb") as stored, mmap.mmap(stored.fileno(), 0, access=mmap.ACCESS_READ) as data:
        start = data.find(HEAP)
        while start >= 0:
            if not _ends(data, start, wide):
                raise PatchMorphError(f"HDF5 file must be whole, got texts that do not end in {path}")
            start = data.find(HEAP, start + 1)


def _ends(data: mmap.mmap, start: int, wide: int) -> bool:
    """Whether each object of a heap leads to a later one within it; ``wide`` are the bytes of a size.

    HDF5 itself rejects a heap that ends beyond the file.
    """

    def size(place: int) -> int:
        return int.from_bytes(data[place + HEAP_HEAD : place + HEAP_HEAD + wide], "little")

    head, end = HEAP_HEAD + wide, start + size(start)
    if end > len(data):
        return True
    at = start + head
    for _ in range(MAX_OBJECTS):
        if at + head > end:
            return at <= end
        free = data[at : at + 2] == b"\0\0"
        step = size(at) if free else head + -(-size(at) // 8) * 8
        if not step:
            return False
        at += step
    return False


def _check(file: h5py.File, path: Path) -> None:
    seen, groups = set[Any](), [file["/"]]
    _check_attributes(file["/"], path)
    while groups:
        group: Any = groups.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise _elsewhere(f"a link to {link.filename}", path)
            if not isinstance(link, h5py.HardLink):
                continue  # a soft link leads to an object of this file, which has a hard link
            found = group[name]
            _check_attributes(found, path)
            identity = h5o.get_info(found.id).addr
            if identity not in seen and isinstance(found, h5py.Group):
                groups.append(found)
            elif isinstance(found, h5py.Dataset):
                _check_data(found, path)
            seen.add(identity)
            if len(seen) > MAX_OBJECTS:
                raise PatchMorphError(f"file must hold at most {MAX_OBJECTS} objects, got more in {path}")


def _check_data(data: Any, path: Path) -> None:
    if data.external:
        raise _elsewhere(f"numbers in {data.external[0][0]}", path)
    if data.is_virtual:
        raise _elsewhere("a virtual data set", path)
    check_kind(data.dtype, data.name, path)
    size = math.prod(data.shape or ()) * data.dtype.itemsize
    if size > MOST_PER_BYTE * max(data.id.get_storage_size(), 1):
        raise PatchMorphError(f"HDF5 file must be whole, got {data.size} numbers that are not in {path}")


def _check_attributes(found: Any, path: Path) -> None:
    for name in found.attrs:
        check_kind(found.attrs.get_id(name).dtype, f"{name} of {found.name}", path)


def check_kind(kind: np.dtype, name: str, path: Path | str) -> None:
    """Check that HDF5 does not crash on what has this type, whatever its bytes are.

    Raises:
        PatchMorphError: neither numbers nor texts.
    """
    if kind.hasobject and h5py.check_string_dtype(kind) is None:
        got = f"another kind in {one_line(name)}"
        raise PatchMorphError(f"HDF5 file must hold numbers and texts, got {got} of {path}")


def _elsewhere(what: str, path: Path) -> PatchMorphError:
    return PatchMorphError(f"HDF5 file must hold its data itself, got {one_line(what)} in {path}")
