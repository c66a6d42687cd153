"""Patch positions in training: a random chain, each child inside its parent."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.spatial.grid import Grid, cube


def nested_chain(
    root_center: Float[Tensor, "b 3"],
    placement: Float[Tensor, "b s 3"],
    patch_size: int,
    spacings_mm: list[float],
    inward: float = 1.0,
) -> list[Grid]:
    """Patches from coarse to fine, each inside the previous one.

    Args:
        root_center: centre of the coarsest patches, RAS+ mm.
        placement: for each finer scale, the position of the child in its parent: −1 and 1 touch the parent's
            faces, 0 is the centre. Drawn uniformly in training.
        patch_size: voxels along each side, the same at every scale.
        spacings_mm: voxel size of the patches at each scale, decreasing.
        inward: fraction of the first child's range of positions that is used. The coarsest patch is larger
            than the content, so a child at its rim would contain only background.
    """
    shape = cube(patch_size)
    center = root_center.double()
    chain = [Grid.centered(shape, spacings_mm[0], center)]
    for scale, (parent, child) in enumerate(pairwise(spacings_mm)):
        slack = (parent - child) * patch_size / 2
        center = center + placement[:, scale] * slack * (inward if scale == 0 else 1.0)
        chain.append(Grid.centered(shape, child, center))
    return chain


def draw_placement(scales: int, batch: int, generator: torch.Generator) -> Float[Tensor, "b s 3"]:
    """Uniform placements of the ``scales − 1`` children in their parents."""
    return 2 * torch.rand(batch, scales - 1, 3, generator=generator) - 1
