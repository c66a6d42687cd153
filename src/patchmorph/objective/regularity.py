"""How smooth a deformation is."""

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.compilation import compilable

LEAST_VOLUME = 0.2
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
    """Mean of ``max(0, LEAST_VOLUME − det(I + ∇u))`` by forward differences: one value a patch."""
    inner = displacement[:, :, :-1, :-1, :-1]
    columns = []
    for axis in range(3):
        ahead = displacement[(..., *(slice(1, None) if k == axis else slice(0, -1) for k in range(3)))]
        gradient = (ahead - inner) / spacing
        unit = torch.zeros_like(gradient[:1, :, :1, :1, :1])
        unit[:, axis] = 1
        columns.append(gradient + unit)
    determinant = (columns[0] * torch.linalg.cross(columns[1], columns[2], dim=1)).sum(1)
    return (LEAST_VOLUME - determinant).clamp(min=0).mean((1, 2, 3))
