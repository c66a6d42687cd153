"""The connection to a running scheduler of Dask."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.io.extras import extra

CONNECT_SECONDS = 10
RETRIES = 2
"""Further attempts at a task whose worker fails for another reason than its input."""


@contextlib.contextmanager
def connected(scheduler: str) -> Iterator[Any]:
    """A client of a scheduler.

    Args:
        scheduler: its address, such as ``tcp://host:8786``, or the file that it wrote (``--scheduler-file``).

    Raises:
        PatchMorphError: the extra ``large`` is not installed, or the scheduler cannot be reached.
    """
    distributed = extra("distributed", "large")
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # failures are reported by their tasks
    where = "scheduler_file" if Path(scheduler).is_file() else "address"
    try:
        client = distributed.Client(**{where: scheduler}, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        got = f"{scheduler}: {one_line(error)}"
        raise PatchMorphError(f"scheduler must be the address of a running one, got {got}") from None
    with client:
        yield client
