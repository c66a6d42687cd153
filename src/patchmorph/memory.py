"""How much memory may be used, and arrays in a scratch file where they are too large for it."""

import functools
import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor

from patchmorph.errors import PatchMorphError

GIB = 2**30
SHARE = 8
"""Part of the memory that a single array may take, as one over this number; larger ones go to a file."""
IMAGES_SHARE, MAX_IMAGES = 4, 2 * GIB
"""Part of a GPU's memory that images may take, likewise, and bytes in any case; larger ones stay outside."""

FREED_SHARE = 32
"""Part of the memory that freed arrays may take, likewise, before it is returned to the system."""

UNKNOWN = 8 * GIB


class Limits(NamedTuple):
    """Bytes that may be used; ``None``: what the machine has."""

    memory: int | None = None
    gpu: int | None = None


NONE = Limits()
_limits = ContextVar("limits", default=NONE)
_scratch: "weakref.WeakSet[mmap.mmap]" = weakref.WeakSet()


@contextmanager
def limited(memory_gib: float | None = None, gpu_gib: float | None = None) -> Iterator[None]:
    """Within the block, what is planned by these limits keeps them; the rest is not policed.

    ``None``: as outside of the block.

    Raises:
        PatchMorphError: a limit that is no number above 0.
    """
    for name, value in (("memory limit", memory_gib), ("GPU memory limit", gpu_gib)):
        if value is not None and not 0 < value < math.inf:
            raise PatchMorphError(f"{name} must be a number of GiB above 0, got {value}")
    pairs = zip((memory_gib, gpu_gib), _limits.get(), strict=True)
    token = _limits.set(Limits(*(outer if gib is None else int(gib * GIB) for gib, outer in pairs)))
    try:
        yield
    finally:
        _limits.reset(token)


def memory_limit() -> int:
    """Bytes of memory that may be used."""
    return _limits.get().memory or _installed()


def gpu_limit(device: torch.device) -> int:
    """Bytes of memory of a GPU that may be used."""
    return _limits.get().gpu or torch.cuda.get_device_properties(device).total_memory


def images_fit(count: int, device: torch.device) -> bool:
    """Whether images of ``count`` voxels in all are computed with on ``device`` as a whole."""
    return device.type != "cuda" or 4 * count <= min(MAX_IMAGES, gpu_limit(device) // IMAGES_SHARE)


def zeros(shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """Zeros, float32; on a CPU in a scratch file (in ``TMPDIR``) if they are many (see `SHARE`).

    Raises:
        PatchMorphError: the disk has no room for the file.
    """
    size = 4 * math.prod(shape)
    if torch.device(device).type != "cpu" or size <= memory_limit() // SHARE:
        return torch.zeros(shape, device=device)
    with tempfile.TemporaryFile() as file:
        try:
            reserve = getattr(os, "posix_fallocate", lambda number, first, count: os.truncate(number, count))
            reserve(file.fileno(), 0, size)
        except OSError as error:
            folder = tempfile.gettempdir()
            raise PatchMorphError(
                f"scratch folder must have room for {size / GIB:.3g} GiB, got {error.strerror} in {folder}"
            ) from None
        mapped = mmap.mmap(file.fileno(), size)
    _scratch.add(mapped)
    return torch.frombuffer(mapped, dtype=torch.float32).reshape(shape)


def release() -> None:
    """Let go of the memory in which parts of scratch files lie; they are read again where they are needed."""
    for mapped in list(_scratch):
        if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            mapped.madvise(mmap.MADV_DONTNEED)


@functools.cache
def _installed() -> int:
    """Bytes of memory of the machine; `UNKNOWN` where the system has no call for it."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return UNKNOWN
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
