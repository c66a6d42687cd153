"""Regularity terms of deformations."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.compilation import compilable

MIN_DETERMINANT = 0.3
"""Jacobian determinant below which `folding_penalty` is positive: a margin above folds, which begin at 0."""


@compilable
def diffusion_energy(displacement: Float[Tensor, "b 3 x y z"], spacing: float = 1.0) -> Float[Tensor, " b"]:
    """Mean squared gradient of a displacement, summed over the three directions: one value per patch.

    Dimensionless if ``spacing`` is in the unit of the displacement, so one weight serves every scale.
    """
    flat = (1, 2, 3, 4)
    terms = [(displacement.diff(dim=axis) / spacing).square().mean(flat) for axis in (2, 3, 4)]
    return terms[0] + terms[1] + terms[2]


@compilable
def folding_penalty(displacement: Float[Tensor, "b 3 x y z"], spacing: float = 1.0) -> Float[Tensor, " b"]:
    """Mean of ``max(0, MIN_DETERMINANT − det(I + ∇u))`` in all octants of inner points: one value per patch.

    A trilinear field has a different gradient in each of the eight cells around a grid point, given by the
    differences to the neighbours in that octant. Forward differences alone cover one of the eight.
    """
    sides = []  # per axis: difference from the previous and to the next neighbour, three components each
    inner = slice(1, -1)
    for axis in range(3):
        step = displacement.diff(dim=axis + 2) / spacing
        step = step[(..., *(slice(None) if k == axis else inner for k in range(3)))]
        before, after = (step.narrow(axis + 2, first, step.shape[axis + 2] - 1).unbind(1) for first in (0, 1))
        sides.append([[part + (k == axis) for k, part in enumerate(side)] for side in (before, after)])
    total = torch.zeros(len(displacement), device=displacement.device)
    for b, c in itertools.product(sides[1], sides[2]):
        normal = (b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2], b[0] * c[1] - b[1] * c[0])
        for a in sides[0]:
            determinant = a[0] * normal[0] + a[1] * normal[1] + a[2] * normal[2]
            total = total + (MIN_DETERMINANT - determinant).clamp(min=0).mean((1, 2, 3))
    return total / 8
