"""What the C library does with memory that is freed."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of ``mallopt`` in glibc: freed bytes at the end of the heap, and bytes of an array, from which on they go
back to the system."""


def keep_freed_memory() -> None:
    """Let memory of freed arrays stay with the process, so that the next ones take it as it is.

    Otherwise glibc returns each of some megabytes to the system, which clears it for the next one: 0.3 s of a
    registration, and 10 s in Dask's workers, which have it return any of 64 KiB. Larger ones are returned as
    ever.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's only
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**27)
        mallopt(M_TRIM_THRESHOLD, 2**29)
