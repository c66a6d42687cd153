"""The blocks of one large image, written by the workers of a Dask scheduler."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from patchmorph.cluster.connection import RETRIES, connected
from patchmorph.errors import PatchMorphError, one_line
from patchmorph.heap import keep_freed_memory
from patchmorph.io.block_writer import Part, Spread
from patchmorph.io.extras import extra
from patchmorph.io.formats.ome_zarr_writing import Block


@contextlib.contextmanager
def spread_over(scheduler: str) -> Iterator[Spread]:
    """Where blocks are written: by the workers of a scheduler, which reach the same files by the same paths.

    Args:
        scheduler: see `connected`.

    Raises:
        PatchMorphError: see `connected`; in the block, one that a worker has found, or a block that no worker
            could write. Those that are written stay for the next call.
    """
    with connected(scheduler) as client:

        def spread(write: Callable[[Block], None], parts: Sequence[Part]) -> Iterator[int]:
            if not parts:
                return
            sent = client.scatter(write, broadcast=True, hash=False)
            futures = {
                client.submit(_written, sent, block, retries=RETRIES, pure=False): number
                for number, block in parts
            }
            for future in extra("distributed", "large").as_completed(futures, loop=client.loop):
                if (error := future.exception()) is not None:
                    raise _explained(error)
                yield futures[future]

        yield spread


def _written(write: Callable[[Block], None], block: Block) -> None:
    keep_freed_memory()
    write(block)


def _explained(error: Any) -> PatchMorphError:
    if isinstance(error, PatchMorphError):
        return error
    return PatchMorphError(f"workers must write every block, got {type(error).__name__}: {one_line(error)}")
