"""Pull a volume through a transform onto a grid, in slabs so that memory stays bounded."""

import torch

from patchmorph.spatial.grid import Grid
from patchmorph.spatial.image import Image
from patchmorph.spatial.sampling import Interpolation, sample_label, sample_linear, sample_nearest
from patchmorph.transforms.base import Transform

_SAMPLERS = {
    "linear": lambda data, points: sample_linear(data.float(), points, outside="zeros"),
    "nearest": sample_nearest,
    "label": sample_label,
}


@torch.no_grad()
def resample(
    image: Image, transform: Transform, grid: Grid, interpolation: Interpolation = "linear"
) -> Image:
    """``image(transform(x))`` at every point x of ``grid``.

    Args:
        image: what is seen through the transform, at its own resolution.
        transform: maps ``grid``'s world to ``image``'s world.
        grid: one grid, on the same device.
        interpolation: ``linear`` for intensities, without detail that ``grid`` cannot hold; ``nearest`` or
            ``label`` keep ids and the number type. Integer images stay integer: linear values are rounded.

    Returns:
        The resampled image on ``grid``, zero where ``image`` does not reach.
    """
    sampler = _SAMPLERS[interpolation]
    source = image.level(float(grid.spacing_mm.min())) if interpolation == "linear" else image
    slabs = []
    for slab in grid.slabs():
        values = sampler(source.data, source.grid.to_voxel(transform(slab.points_world())))
        slabs.append(values if image.data.is_floating_point() else _rounded(values, image.data.dtype))
    return Image(torch.cat(slabs, dim=2), grid, image.name)


def _rounded(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return values.round().to(dtype) if values.is_floating_point() else values
