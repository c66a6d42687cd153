"""What the C library does with memory that is freed."""

import ctypes
import sys
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of ``mallopt`` in glibc: freed bytes at the end of the heap, and bytes of an array, from which on they go
back to the system."""


def keep_freed_memory() -> None:
    """Let memory of freed arrays stay with the process, so that the next ones take it as it is.

    Otherwise glibc returns each of some megabytes to the system, which clears it for the next one: 0.3 s of a
    registration, and 10 s in Dask's workers, which have it return any of 64 KiB. Larger ones are returned as
    ever.
    """
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**27)
        mallopt(M_TRIM_THRESHOLD, 2**29)


def return_freed_memory(above: int) -> None:
    """Let the system have the memory of freed arrays if it is more than ``above`` bytes.

    What lies between arrays that are still used stays with the process otherwise: 2.6 GiB of a registration
    of 1024³ voxels, since each thread has a heap of its own.
    """
    counts, trim = _glibc("mallinfo2"), _glibc("malloc_trim")
    if counts is None or trim is None:  # glibc before 2.33 counts with 32 bits
        return
    counts.restype = _Counts
    if counts().fordblks > above:
        trim(ctypes.c_size_t(0))


class _Counts(ctypes.Structure):
    """What ``mallinfo2`` returns; ``fordblks`` are bytes of freed arrays, returned to the system or not."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    ]


def _glibc(name: str) -> Any:
    """A function of glibc; ``None`` where there is another C library."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
