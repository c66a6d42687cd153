"""An object as large as a head with detail at every scale and a known map: formulas, at any voxel size.

Band-limited noise is a random texture, periodic and without frequencies above an eighth of its sampling, read
at several frequencies. The object is an ellipsoid of folded sheets (where noise is near zero), tubes (where
two noises are) and mottled tissue. The known map has the same slope in each octave, so that each octave that
a registration finds halves what is left.
"""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as nn_functional

from patchmorph.spatial.affine import constant
from patchmorph.spatial.grid import Grid, VoxelBox, cube
from patchmorph.transforms.base import Transform

EXTENT_MM = 160.0
"""Side of the images."""
SEMI_AXES_MM = (62.0, 70.0, 55.0)
TEXTURE, PERIODS = 64, 8
"""Samples along each side of the texture, and the highest number of periods in it."""
WAVELENGTHS_MM = (64.0, 32.0, 16.0, 8.0, 4.0, 2.0, 1.0)
"""Of the octaves of the map and of the tissue."""
SLOPE = 0.03
"""Root mean square displacement of an octave along each axis over its wavelength."""
VOXELS_PER_WAVE, FALLING, RIBBON_MM = 4, 0.3, 16.0
"""Voxels in the shortest wave that an image shows; power of the wavelength that contrast falls with;
wavelength of the folds."""
NOISE = 0.02
"""Standard deviation of the images' noise, where white matter is about 0.8."""


class Texture:
    """Periodic noise of a few channels, standard deviation 1, read at any points and wavelengths."""

    def __init__(self, channels: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(channels, *cube(TEXTURE), generator=generator)
        frequency = torch.fft.fftfreq(TEXTURE, 1 / TEXTURE)
        radius = torch.stack(torch.meshgrid(frequency, frequency, frequency, indexing="ij")).norm(dim=0)
        band = (radius > PERIODS / 2) & (radius <= PERIODS)
        smooth = torch.fft.ifftn(torch.fft.fftn(noise, dim=(1, 2, 3)) * band, dim=(1, 2, 3)).real
        smooth = smooth / smooth.std(dim=(1, 2, 3), keepdim=True)
        self.values = nn_functional.pad(smooth[None], [1] * 6, mode="circular")
        self.shifts = torch.rand(64, 3, generator=generator)

    def __call__(self, points: Tensor, wavelength_mm: float, octave: int) -> Tensor:
        """``[C, n]`` at points ``[n, 3]``; another place of the texture in each octave."""
        period_mm = wavelength_mm * PERIODS * 0.75
        part = torch.remainder(points / period_mm + self.shifts[octave], 1.0)
        unit = 2 * (part * TEXTURE + 1.5) / (TEXTURE + 2) - 1
        at = unit.flip(-1)[None, :, None, None]
        found = nn_functional.grid_sample(self.values, at, align_corners=False, padding_mode="border")
        return found[0, :, :, 0, 0]

    def to(self, device: torch.device | str) -> "Texture":
        """The same texture on another device."""
        self.values, self.shifts = self.values.to(device), self.shifts.to(device)
        return self


@functools.cache
def texture(channels: int, seed: int, device: torch.device) -> Texture:
    """The texture on a device."""
    return Texture(channels, seed).to(device)


def to_fixed(points: Tensor) -> Tensor:
    """Where points ``[n, 3]`` of the moving image belong in the fixed image, RAS+ mm."""
    moved = points + 3.0
    for octave, wavelength in enumerate(WAVELENGTHS_MM):
        moved = moved + SLOPE * wavelength * texture(3, 1, points.device)(points, wavelength, octave).T
    return moved


def intensity(points: Tensor, spacing_mm: float) -> Tensor:
    """The object at points ``[n, 3]`` of the fixed image, 0 to about 1, without octaves too fine for voxels.

    Args:
        points: RAS+ mm.
        spacing_mm: voxel size.
    """
    radius = (points / constant(SEMI_AXES_MM, points.device).float()).norm(dim=1)
    depth = (1 - radius) * min(SEMI_AXES_MM)
    value = torch.full_like(depth, 0.85)
    for octave, mm in enumerate(WAVELENGTHS_MM[1:], 1):
        if mm < VOXELS_PER_WAVE * spacing_mm:
            break
        first, second = texture(2, 2, points.device)(points, mm, 10 + octave)
        if mm == RIBBON_MM:  # grey matter, folded, over white matter
            value = value - 0.4 * torch.sigmoid((9 + 6 * first - depth) * 1.2)
        sheet = torch.exp(-((first / 0.35) ** 2))
        tube = torch.exp(-(first**2 + second**2) / 0.2)
        value = value - (mm / 16) ** FALLING * (0.2 * sheet - 0.2 * tube)
    return value.clamp(0.1, 1.2) * torch.sigmoid(depth / 0.4)


def grid_of(size: int) -> Grid:
    """The grid of either image, with ``size`` voxels a side."""
    return Grid.centered(cube(size), EXTENT_MM / size, torch.zeros(1, 3))


def blocks(
    size: int, moving: bool, device: torch.device | str = "cpu", side: int = 64
) -> Iterator[tuple[VoxelBox, Tensor]]:
    """The voxels of an image, 0 to 1200 as integers, block by block."""
    grid = grid_of(size).to(device)
    spacing_mm, axes = EXTENT_MM / size, constant(SEMI_AXES_MM, grid.device).float()
    for index, (box, block) in enumerate(grid.blocks(side)):
        points = block.points_world().reshape(-1, 3)
        values = torch.zeros(len(points), device=points.device)
        near = (points / axes).norm(dim=1) < 1.35
        if near.any():
            inside = points[near]
            values[near] = intensity(to_fixed(inside) if moving else inside, spacing_mm)
        generator = torch.Generator(device).manual_seed(2 * index + moving)
        values = values + NOISE * torch.randn(len(values), generator=generator, device=points.device)
        yield box, (1000 * values).clamp(min=0).short().reshape(block.shape)


def inner_points(count: int = 20000) -> Tensor:
    """Points inside the fixed object, ``[n, 3]``."""
    generator = torch.Generator().manual_seed(5)
    points = (2 * torch.rand(3 * count, 3, generator=generator) - 1) * torch.tensor(SEMI_AXES_MM)
    inside = (points / torch.tensor(SEMI_AXES_MM)).norm(dim=1) < 0.9
    return points[inside][:count]


def errors_mm(transform: Transform, device: torch.device | str = "cpu") -> Tensor:
    """Distance of points from where a map on ``device`` and the known one back take them, mm."""
    points = inner_points().to(device)
    return (to_fixed(transform(points[None])[0]) - points).norm(dim=1)
