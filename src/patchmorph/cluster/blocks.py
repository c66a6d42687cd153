"""The blocks of one large image, computed by the workers of a Dask scheduler."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from patchmorph.cluster.connection import RETRIES, connected
from patchmorph.errors import PatchMorphError, one_line
from patchmorph.heap import keep_freed_memory
from patchmorph.io.block_writer import Spread
from patchmorph.io.extras import extra

Part = TypeVar("Part")
Result = TypeVar("Result")


@contextlib.contextmanager
def spread_over(scheduler: str) -> Iterator[Spread]:
    """Where blocks are computed: by the workers of a scheduler, which reach the same files by the same paths.

    Args:
        scheduler: see `connected`.

    Raises:
        PatchMorphError: see `connected`; in the block, one that a worker has found, or a block that no worker
            could write. Those that are written stay for the next call.
    """
    with connected(scheduler) as client:

        def spread(
            compute: Callable[[Part], Result], parts: Sequence[tuple[int, Part]]
        ) -> Iterator[tuple[int, Result]]:
            if not parts:
                return
            sent = client.scatter(compute, broadcast=True, hash=False)
            futures = {
                client.submit(_computed, sent, part, retries=RETRIES, pure=False): number
                for number, part in parts
            }
            for future in extra("distributed", "large").as_completed(futures, loop=client.loop):
                if (error := future.exception()) is not None:
                    raise _explained(error)
                yield futures[future], future.result()

        yield spread


def _computed(compute: Callable[[Part], Result], part: Part) -> Result:
    keep_freed_memory()
    return compute(part)


def _explained(error: Any) -> PatchMorphError:
    if isinstance(error, PatchMorphError):
        return error
    return PatchMorphError(f"workers must compute every block, got {type(error).__name__}: {one_line(error)}")
