"""Regularity terms of deformations."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.compilation import compilable

MIN_DETERMINANT = 0.3
"""Jacobian determinant below which `folding_penalty` is positive: a margin above folds, which begin at 0."""

MIN_LOG_DETERMINANT = 0.1
"""Jacobian determinant below which `volume_energy` no longer rises: its logarithm ends at 0."""

OCTANTS = 8


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
    """Mean of ``max(0, MIN_DETERMINANT − det(I + ∇u))`` at inner points in all octants, one value a patch."""
    total = torch.zeros(len(displacement), device=displacement.device)
    for determinant in _octant_determinants(displacement, spacing):
        total = total + (MIN_DETERMINANT - determinant).clamp(min=0).mean((1, 2, 3))
    return total / OCTANTS


@compilable
def volume_energy(displacement: Float[Tensor, "b 3 x y z"], spacing: float = 1.0) -> Float[Tensor, " b"]:
    """Mean of ``log² det(I + ∇u)`` in all octants of inner points: one value per patch.

    Unlike `diffusion_energy` it leaves shear and rotation free: a gyrus may be bent to where it belongs, but
    what it holds keeps its volume. Growing and shrinking by one factor cost alike. Determinants below
    `MIN_LOG_DETERMINANT` count as that, and have no gradient; `folding_penalty` has one there.
    """
    total = torch.zeros(len(displacement), device=displacement.device)
    for determinant in _octant_determinants(displacement, spacing):
        total = total + determinant.clamp(min=MIN_LOG_DETERMINANT).log().square().mean((1, 2, 3))
    return total / OCTANTS


def _octant_determinants(
    displacement: Float[Tensor, "b 3 x y z"], spacing: float
) -> list[Float[Tensor, "b u v w"]]:
    """``det(I + ∇u)`` at inner points, by the differences to the neighbours in each octant.

    A trilinear field has a different gradient in each of the eight cells around a grid point. Forward
    differences alone cover one of the eight.
    """
    sides = []  # per axis: difference from the previous and to the next neighbour, three components each
    inner = slice(1, -1)
    for axis in range(3):
        step = displacement.diff(dim=axis + 2) / spacing
        step = step[(..., *(slice(None) if k == axis else inner for k in range(3)))]
        before, after = (step.narrow(axis + 2, first, step.shape[axis + 2] - 1).unbind(1) for first in (0, 1))
        sides.append([[part + (k == axis) for k, part in enumerate(side)] for side in (before, after)])
    determinants = []
    for b, c in itertools.product(sides[1], sides[2]):
        normal = (b[1] * c[2] - b[2] * c[1], b[2] * c[0] - b[0] * c[2], b[0] * c[1] - b[1] * c[0])
        determinants += [a[0] * normal[0] + a[1] * normal[1] + a[2] * normal[2] for a in sides[0]]
    return determinants
