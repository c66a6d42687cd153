"""Deferred SIGINT and SIGTERM: training stops at the end of a step, so that no progress is lost."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Interruption:
    """Whether a stop was requested (``asked``)."""

    asked = False


@contextmanager
def deferred() -> Iterator[Interruption]:
    """Within the block the first SIGINT or SIGTERM only sets ``asked``; a second one takes effect at once."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption  # signals reach the main thread only
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(*_: object) -> None:
        interruption.asked = True
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, ask)
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
