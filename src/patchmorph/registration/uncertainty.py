"""Where a registration is in doubt: how far overlapping patches are from agreeing."""

import torch

from patchmorph.images.in_memory import Image
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.sampling import sample_linear
from patchmorph.transforms.base import Transform
from patchmorph.transforms.velocity import VelocityField


@torch.no_grad()
def uncertainty(transform: Transform, grid: Grid) -> Image:
    """Standard deviation in mm of the map at every point of the fixed image's ``grid``.

    The variances that velocity fields of ``transform`` carry (see `patchmorph.registration.stages.network.doubt`) add
    up, as those of independent errors do, each looked up where its stage saw the point.
    """
    slabs = []
    for slab in grid.slabs():
        points = slab.points_world()
        total = torch.zeros(1, 1, *slab.shape, device=points.device)
        for part in reversed(transform.parts()):
            if isinstance(part, VelocityField) and part.variance is not None:
                total += sample_linear(part.variance, points, "zeros", part.grid.world_to_voxel)
            points = part(points)
        slabs.append(total.sqrt())
    return Image(torch.cat(slabs, dim=2), grid, "uncertainty")
