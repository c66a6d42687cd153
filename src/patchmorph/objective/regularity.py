"""How smooth a deformation is."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.compilation import compilable

LEAST_VOLUME = 0.3
"""Jacobian determinant below which `folding_penalty` pushes: some room before a real fold at zero."""


@compilable
def diffusion_energy(displacement: Float[Tensor, "b 3 x y z"], spacing: float = 1.0) -> Float[Tensor, " b"]:
    """Mean squared gradient of a displacement, summed over the three directions: one value a patch.

    Without unit when ``spacing`` is in the displacement's unit, hence the same weight serves every scale.
    """
    flat = (1, 2, 3, 4)
    terms = [(displacement.diff(dim=axis) / spacing).square().mean(flat) for axis in (2, 3, 4)]
    return terms[0] + terms[1] + terms[2]


@compilable
def folding_penalty(displacement: Float[Tensor, "b 3 x y z"], spacing: float = 1.0) -> Float[Tensor, " b"]:
    """Mean of ``max(0, LEAST_VOLUME − det(I + ∇u))`` in all octants of inner points: one value a patch.

    A trilinear field has another gradient in each of the eight cells around a grid point, from the
    differences to its neighbours in that octant. Forward differences alone see one of them.
    """
    sides = []  # per axis: from the neighbour before, to the neighbour after; three components each
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
            total = total + (LEAST_VOLUME - determinant).clamp(min=0).mean((1, 2, 3))
    return total / 8
