"""Fields in whole steps, as files hold them: what was rounded once stays as it is."""

import math

import torch
from jaxtyping import Float, Int16
from torch import Tensor

from patchmorph.memory import release

INT16_MAX = 2**15 - 1
PLANES = 16
"""Planes of a field that are rounded at a time."""


def in_steps(values: Float[Tensor, "*n"]) -> tuple[Int16[Tensor, "*n"], float]:
    """``values`` in steps, and the step: the smallest power of two for which 16 bits suffice."""
    step = _step(values)
    return (values.double() / step).round_().short(), step


def to_whole_steps(values: Float[Tensor, "1 c x y z"]) -> None:
    """Round a field to whole steps in place, part by part; those of one up to 16 mm are 2⁻¹¹ mm.

    Exact in float32, since a step is a power of two.
    """
    step = _step(values)
    for part in values.split(PLANES, dim=2):
        part.div_(step).round_().mul_(step)
        release()


def _step(values: Float[Tensor, "*n"]) -> float:
    low, high = values.aminmax()
    largest = float(torch.maximum(-low, high)) / INT16_MAX
    mantissa, exponent = math.frexp(largest)
    return math.ldexp(1.0, exponent - (mantissa == 0.5)) if math.isfinite(largest) and largest > 0 else 1.0
