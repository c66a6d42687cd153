"""Work in parts on a CPU: several parts at a time, each on one core.

PyTorch divides every operation among its threads, which then wait for each other, and the order of its sums
depends on their number. Parts that are computed on one core each wait only at the end, and their results are
the same whatever the number of threads.
"""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")

AHEAD = 2
"""Parts, besides one for each core, whose results may wait in memory until they are taken."""


def in_order(
    compute: Callable[[Part], Result],
    parts: Iterable[Part],
    device: torch.device | str = "cpu",
    at_most: int | None = None,
) -> Iterator[Result]:
    """``compute`` of each part, in the order of the parts.

    On a CPU as many parts are computed at a time as PyTorch may use threads (`torch.set_num_threads`). A part
    that divides its own work in this way computes it on its own core. On CUDA one part follows the other.

    Args:
        compute: a function that may run in several threads at once; it has the grad mode of the caller.
        parts: what it is called with; taken from the caller's thread when they are needed.
        device: where it computes.
        at_most: parts at a time, however many threads there are.
    """
    threads = torch.get_num_threads()
    workers = min(threads, at_most or threads)
    if torch.device(device).type != "cpu" or threads == 1:
        yield from map(compute, parts)
        return
    grad = torch.is_grad_enabled()

    def run(part: Part) -> Result:
        with torch.set_grad_enabled(grad):
            return compute(part)

    waiting, parts = deque[Future[Result]](), iter(parts)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            waiting.extend(pool.submit(run, part) for part in itertools.islice(parts, workers + AHEAD))
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(run, part) for part in itertools.islice(parts, 1))
    finally:  # once the pool has ended: a thread of it may begin after others have computed all parts
        torch.set_num_threads(threads)  # of threads that start later; each has a number of its own


class _Inline(Executor):
    """Runs what is submitted at once, in the caller's thread."""

    def submit(self, fn: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        future = Future[Result]()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def beside(threads: int) -> Executor:
    """Runs what is submitted beside the caller's work, in ``threads`` threads.

    Where PyTorch may use one thread only, what is submitted runs at once in the caller's.
    """
    return ThreadPoolExecutor(threads) if torch.get_num_threads() > 1 else _Inline()


@contextmanager
def one_core() -> Iterator[None]:
    """Inside the block this thread computes on one core, so that results do not depend on the threads."""
    threads = torch.get_num_threads()
    if threads == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
