"""The uncertainty of a map: the disagreement of overlapping patches."""

import torch

from patchmorph.images.volume import Image
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.sampling import sample_linear
from patchmorph.transforms.base import Transform
from patchmorph.transforms.velocity import VelocityField


@torch.no_grad()
def uncertainty(transform: Transform, grid: Grid) -> Image:
    """Standard deviation in mm of the map at every point of the fixed image's ``grid``.

    The variances that velocity fields of ``transform`` carry (see
    `patchmorph.registration.stages.network.velocity_variance`) add up, as those of independent errors do,
    each read where its stage saw the point.
    """
    deviation = torch.empty(1, 1, *grid.shape, device=grid.device)
    for box, block in grid.blocks():
        points = block.points_world()
        variance = torch.zeros(1, 1, *block.shape, device=points.device)
        for part in reversed(transform.parts()):
            if isinstance(part, VelocityField) and part.variance is not None:
                variance += sample_linear(part.variance, points, "zeros", part.grid.world_to_voxel)
            points = part(points)
        deviation[(..., *box.slices)] = variance.sqrt()
    return Image(deviation, grid, "uncertainty")
