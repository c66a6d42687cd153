"""Networks without weights: shapes alone, until a file gives the weights."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

WEIGHTS = (torch.empty, torch.randn)
"""Functions that allocate the weights of layers."""


class WithoutWeights(TorchFunctionMode):
    """Within this context layers have weights of the right shapes, but no memory (on the device ``meta``).

    Other tensors are real, since constructors compute with them: rates, indices of windows.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.nn.init.normal_ and kwargs["tensor"].is_meta:
            return kwargs["tensor"]  # torch would load its compiler for it, which takes a second
        if func in WEIGHTS and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
