"""Where a page samples its images, and which intensities it shows."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.images.canonical import rounded, turn_of
from patchmorph.images.foreground import find_content
from patchmorph.images.volume import AbstractVolume
from patchmorph.spatial.affine import from_linear
from patchmorph.spatial.grid import Grid, VoxelBox, triple

MAX_VOXELS = 5_000_000
"""Of an image in the page, so that pages stay below 30 MB; a human brain of 1 mm has 4 million."""
WHITE, SAMPLES = 0.998, 200_000
"""Quantile of the intensities that is shown as white, and how many they are estimated from."""


def lattice_of(fixed: AbstractVolume) -> tuple[Grid, VoxelBox | None]:
    """The part of a grid that shows something, its axes in the order of RAS+, coarser above `MAX_VOXELS`.

    Returns:
        The lattice, and which voxels of the image in that order its points are; ``None`` if it is coarser.
    """
    whole = rounded(turn_of(fixed.grid).grid(fixed.grid))
    box = whole.box_around(find_content(fixed.normalized()).box_world, 0)
    grid = whole.crop(box.start, box.shape)
    spacing_mm = grid.spacing_mm[0].tolist()
    coarsest = min(spacing_mm)
    while _count(grid, wider := [max(own, coarsest) for own in spacing_mm]) > MAX_VOXELS:
        coarsest *= 1.05
    if wider == spacing_mm:
        return grid, box
    ratio = [new / own for new, own in zip(wider, spacing_mm, strict=True)]
    shape = triple(max(1, int(n / r)) for n, r in zip(grid.shape, ratio, strict=True))
    scale = torch.tensor(ratio, dtype=torch.float64)
    coarser = from_linear(torch.diag(scale)[None], (scale[None] - 1) / 2)
    return grid.framed(shape, coarser), None


def _count(grid: Grid, spacing_mm: list[float]) -> float:
    """Voxels of ``spacing_mm`` that cover ``grid``."""
    own = grid.spacing_mm[0].tolist()
    return math.prod(n * a / b for n, a, b in zip(grid.shape, own, spacing_mm, strict=True))


def display_window(image: AbstractVolume, values: Float[Tensor, "x y z"]) -> tuple[float, float]:
    """Intensities that are shown as black and white: those of the networks, wider where much is beyond."""
    low, high = sorted(image.intensity_range())
    some = values.flatten()[:: max(1, values.numel() // SAMPLES)]
    ends = some.quantile(torch.tensor([1 - WHITE, WHITE], device=some.device)).tolist()
    return min(low, ends[0]), max(high, ends[1])
