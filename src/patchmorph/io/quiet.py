"""What C and C++ libraries do to the process: they print about files, and change its locale."""

import locale
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence what C libraries print about a broken file: the raised error reports it in one line.

    The locale is restored: GDCM, which reads DICOM, leaves that of C, in which text files are read as ASCII.
    """
    stderr, chosen = os.dup(2), locale.setlocale(locale.LC_ALL)
    try:
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        locale.setlocale(locale.LC_ALL, chosen)
