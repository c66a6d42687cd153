"""Progress of long work: loops announce their steps, and listeners show or record them.

Work that takes longer than a second or so opens a `step`, or runs its loop through `track`. Steps nest.
Without a listener they only write to the log ``patchmorph``, when they end.
"""

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

LOG = logging.getLogger("patchmorph")

Item = TypeVar("Item")


@dataclass(eq=False)
class Step:
    """Work that has begun.

    Attributes:
        name: what is done, such as ``patches at 1 mm``.
        total: number of parts; ``None``: not known.
        done: parts that are finished.
        depth: number of steps around it.
        began: reading of `time.perf_counter`.
    """

    name: str
    total: int | None = None
    done: int = 0
    depth: int = 0
    began: float = field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Time since it began."""
        return time.perf_counter() - self.began

    @property
    def seconds_left(self) -> float | None:
        """Time that the other parts take at the rate so far; ``None``: not known."""
        if not self.total or not self.done:
            return None
        return self.seconds / self.done * (self.total - self.done)


@runtime_checkable
class Listener(Protocol):
    """What is told of steps."""

    def started(self, step: Step) -> None:
        """A step has begun."""

    def advanced(self, step: Step) -> None:
        """A part of it is finished."""

    def ended(self, step: Step) -> None:
        """It has ended, with or without an error."""


_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("listeners", default=())
_depth: ContextVar[int] = ContextVar("depth", default=0)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell ``listener`` of the steps inside the block."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)


@contextlib.contextmanager
def step(name: str, total: int | None = None) -> Iterator[Step]:
    """A step that lasts as long as the block; see `Step` for the arguments."""
    current, listeners = Step(name, total, depth=_depth.get()), _listeners.get()
    token = _depth.set(current.depth + 1)
    for listener in listeners:
        listener.started(current)
    try:
        yield current
    finally:
        _depth.reset(token)
        for listener in listeners:
            listener.ended(current)
        LOG.debug("%s%s: %.2f s", "  " * current.depth, name, current.seconds)


def advance(current: Step, parts: int = 1) -> None:
    """Count finished parts of a step."""
    current.done += parts
    for listener in _listeners.get():
        listener.advanced(current)


def track(items: Iterable[Item], name: str, total: int | None = None) -> Iterator[Item]:
    """The items, each a part of a step."""
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    with step(name, total) as current:
        for item in items:
            yield item
            advance(current)
