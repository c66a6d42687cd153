"""Grids, images, maps and chains that hypothesis draws: any pose, spacing, shape and order of axes."""

from itertools import permutations

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from synthetic import grid_around, smooth_velocity
from torch import Tensor

from patchmorph.images.turning import Turn
from patchmorph.images.volume import Image
from patchmorph.patches.blending import rim
from patchmorph.spatial.affine import exponential, from_linear, skew
from patchmorph.spatial.bsplines import Degree
from patchmorph.spatial.grid import Grid, VoxelBox
from patchmorph.transforms.base import AffineTransform, Transform, compose
from patchmorph.transforms.velocity import VelocityField

few = settings(max_examples=max(1, settings.default.max_examples // 4))
"""For properties whose examples take tens of milliseconds."""

seeds = st.integers(0, 2**16)
turns = st.builds(
    Turn, st.sampled_from(list(permutations(range(3)))), st.sets(st.integers(0, 2)).map(sorted).map(tuple)
)
within = st.floats(-1, 1, width=32)
vectors = st.tuples(within, within, within).map(lambda values: torch.tensor([values], dtype=torch.float64))


def grids(least: int = 1, most: int = 14, shear: float = 0.2) -> st.SearchStrategy[Grid]:
    """Grids of ``least`` to ``most`` voxels a side, 0.05 to 5 mm, left- and right-handed."""
    side, spacing = st.integers(least, most), st.floats(0.05, 5.0)
    shape, lengths = st.tuples(side, side, side), st.tuples(spacing, spacing, spacing)
    return st.builds(_grid, shape, lengths, vectors, vectors, turns, vectors, st.just(shear))


def _grid(shape, spacing, angle, shift, turn, slant, shear) -> Grid:
    upper = torch.eye(3, dtype=torch.float64)
    upper[[0, 0, 1], [1, 2, 2]] = shear * slant[0]
    lengths = torch.tensor(spacing, dtype=torch.float64)
    linear = exponential(skew(np.pi * angle))[0] @ torch.diag(lengths) @ upper
    return turn.grid(grid_around(shape, linear.numpy(), tuple((100 * shift[0]).tolist())))


def affines() -> st.SearchStrategy[AffineTransform]:
    """Rotations of up to 60° with scales of 0.7 to 1.4, shear and shifts of up to 50 mm."""
    return st.builds(_affine, vectors, vectors, vectors)


def _affine(angle, stretch, shift) -> AffineTransform:
    turned = exponential(skew(angle))
    return AffineTransform(from_linear(turned @ torch.diag_embed(torch.exp(stretch / 3)), 50 * shift))


def flows() -> st.SearchStrategy[VelocityField]:
    """Smooth flows of up to some 8 mm on lattices of 6 to 10 mm, at rest at their rim."""
    return st.builds(_flow, st.floats(6, 10), st.floats(0.5, 3), seeds, st.sampled_from((1, 3, 5)))


def _flow(spacing: float, amplitude: float, seed: int, degree: Degree) -> VelocityField:
    drawn = smooth_velocity(Grid.centered((18, 17, 16), spacing, torch.zeros(1, 3)), amplitude, seed)
    return VelocityField(
        drawn.velocity * rim(drawn.grid.shape, 4, drawn.grid.device), drawn.grid, degree=degree
    )


def chains() -> st.SearchStrategy[Transform]:
    """One to three affine maps and flows."""
    return st.lists(affines() | flows(), min_size=1, max_size=3).map(lambda parts: compose(*parts))


def images(grid: Grid, seed: int, integers: bool = False) -> Image:
    """Noise on ``grid``: float32, or integers of 16 bits."""
    generator = torch.Generator().manual_seed(seed)
    if integers:
        data = torch.randint(-3000, 3000, (1, 1, *grid.shape), generator=generator, dtype=torch.int16)
    else:
        data = torch.randn((1, 1, *grid.shape), generator=generator)
    return Image(data, grid, "noise")


def turned(image: Image, turn: Turn) -> Image:
    """The same image, stored in another order."""
    array = turn.array(image.data[0, 0].numpy()).copy()
    return Image(torch.from_numpy(array)[None, None], turn.grid(image.grid), image.name)


def points_in(grid: Grid, seed: int, count: int = 60, margin: float = 0.0) -> Tensor:
    """Points inside a grid's outermost voxel centres, RAS+ mm; ``margin``: of its sides, left out."""
    part = torch.rand(1, count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    last = torch.tensor(grid.shape, dtype=torch.float64) - 1
    voxels = (margin + (1 - 2 * margin) * part) * last
    return AffineTransform(grid.voxel_to_world)(voxels.float())


def boxes(grid: Grid, draw) -> VoxelBox:
    """A box of voxels of ``grid``, which may be empty."""
    ends = [sorted((draw(st.integers(0, n)), draw(st.integers(0, n)))) for n in grid.shape]
    return VoxelBox(*map(tuple, zip(*ends, strict=True)))  # type: ignore[arg-type]
