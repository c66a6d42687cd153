"""Compilation of small tensor functions into fused kernels, for training on a GPU.

A training step runs thousands of small operations on coordinates and intensities. Within `compiling`, each
function marked `compilable` runs as one or two kernels. Elsewhere it runs uncompiled: compilation takes a
minute, more than a single registration would save.
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
"""Compiled variants per function: they differ in batch size, gradients and shape."""
MIN_ELEMENTS = 2**16
"""Elements of the largest argument below which a function runs uncompiled."""

_active = ContextVar("compiling", default=False)


@functools.cache
def can_compile() -> bool:
    """Whether Triton and a C compiler are installed, which ``torch.compile`` needs on CUDA."""
    compilers = filter(None, (os.environ.get("CC"), "gcc", "clang", "cc"))
    return find_spec("triton") is not None and any(shutil.which(name) for name in compilers)


@contextmanager
def compiling(wanted: bool = True) -> Iterator[None]:
    """Compile compilable functions within the block, if ``wanted`` and if `can_compile`."""
    if not (wanted and can_compile()):
        yield
        return
    token = _active.set(True)
    try:
        with torch._dynamo.config.patch(cache_size_limit=VARIANTS):  # this name exists in every version
            yield
    finally:
        _active.reset(token)


def compilable(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Mark a pure function of tensors, to be compiled within `compiling` if its arguments are large."""
    compiled = functools.cache(lambda: torch.compile(function))  # the compiler is slow to import

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        # Inside another compiled function, the plain function is traced and fused into it.
        if torch.compiler.is_compiling() or not _active.get() or _size(args) < MIN_ELEMENTS:
            return function(*args, **kwargs)
        return compiled()(*args, **kwargs)

    return call


def _size(args: tuple[object, ...]) -> int:
    return max((arg.numel() for arg in args if isinstance(arg, torch.Tensor)), default=0)
