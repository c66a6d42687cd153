"""Fields in whole steps, as files hold them: what was rounded once stays as it is."""

import math

from jaxtyping import Float, Int16
from torch import Tensor

INT16_MAX = 2**15 - 1


def in_steps(values: Float[Tensor, "*n"]) -> tuple[Int16[Tensor, "*n"], float]:
    """``values`` in steps, and the step: the smallest power of two for which 16 bits suffice."""
    largest = float(values.abs().max()) / INT16_MAX
    mantissa, exponent = math.frexp(largest)
    step = math.ldexp(1.0, exponent - (mantissa == 0.5)) if math.isfinite(largest) and largest > 0 else 1.0
    return (values.double() / step).round().short(), step


def rounded(values: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """``values`` as whole steps; those of a field up to 16 mm are 2⁻¹¹ mm. Exact in float32."""
    steps, step = in_steps(values)
    return (steps.double() * step).to(values.dtype)
