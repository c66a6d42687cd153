"""The mean shape of a cohort: the mean of maps from one space to many."""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.displacement import DisplacementField


def mean_shape(
    transforms: Iterable[Transform], grid: Grid, points: Float[Tensor, "1 n 3"]
) -> DisplacementField:
    """``m(x) = 1/N Σ Rᵢ⁻¹(φᵢ(x))``: the mean of maps without their poses.

    Rᵢ is the rigid map nearest to φᵢ at ``points``, since where a scanner saw a head is no part of its shape.
    The maps ``φᵢ ∘ m⁻¹`` have the identity as their mean (Guimond et al., Computer Vision and Image
    Understanding 2000). It is the full step to the mean shape, of which ANTs takes a quarter a round (Avants
    et al., NeuroImage 2010).

    Args:
        transforms: one or more maps φᵢ from the same space.
        grid: of the mean.
        points: in the object whose shape counts, RAS+ mm.
    """
    total, count = torch.zeros(1, 3, *grid.shape, device=grid.device), 0
    for transform in transforms:
        pose = AffineTransform.nearest_rigid(points, transform(points))
        total += DisplacementField.tabulate(pose.inverse() @ transform, grid).displacement
        count += 1
    return DisplacementField(total / count, grid)
