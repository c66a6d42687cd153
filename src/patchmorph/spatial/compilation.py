"""Fusing small operations into one kernel, where a training runs on a GPU that can.

A training step does thousands of small operations on coordinates and intensities; compiled, each function
marked `compilable` becomes a kernel or two. Elsewhere the functions run as they are written: compiling takes
a minute, which a single registration would never earn back.
"""

import functools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

VARIANTS = 64
"""Of one function: with one or several batch entries, with and without gradients, by shape."""
LEAST_NUMBERS = 2**16
"""Tensors smaller than this are not worth compiling for."""

_active = ContextVar("compiling", default=False)


@functools.cache
def can_compile() -> bool:
    """``torch.compile`` for CUDA wants Triton, and Triton wants a C compiler."""
    compilers = filter(None, (os.environ.get("CC"), "gcc", "clang", "cc"))
    return find_spec("triton") is not None and any(shutil.which(name) for name in compilers)


@contextmanager
def compiling(wanted: bool = True) -> Iterator[None]:
    """Within the block compilable functions run compiled, if ``wanted`` and this machine can."""
    if not (wanted and can_compile()):
        yield
        return
    token = _active.set(True)
    try:
        with torch._dynamo.config.patch(cache_size_limit=VARIANTS):  # its name in every version
            yield
    finally:
        _active.reset(token)


def compilable(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Mark a pure function of tensors that is worth a kernel of its own where its arguments are large."""
    compiled = functools.cache(lambda: torch.compile(function))  # the compiler is slow to import

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        # Within another compiled function this one is fused into it.
        if torch.compiler.is_compiling() or not _active.get() or _size(args) < LEAST_NUMBERS:
            return function(*args, **kwargs)
        return compiled()(*args, **kwargs)

    return call


def _size(args: tuple[object, ...]) -> int:
    return max((arg.numel() for arg in args if isinstance(arg, torch.Tensor)), default=0)
