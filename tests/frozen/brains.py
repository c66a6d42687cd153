"""Synthetic brains as formulas of the world, and pairs of them whose true map is known.

Plain numpy: a change of the package leaves the inputs alone. A moving brain shows ``brain(S(y))`` where
``S(y) = z + bend(z)`` and ``z = A⁻¹ y``, so the true map, from the fixed to the moving world, is the inverse
of S: `truth`.
"""

import functools

import numpy as np
import torch
from frozen.internals import Image
from synthetic import AFFINES, grid_around, oblique

Array = np.ndarray
SEMI_AXES_MM = np.array([65.0, 80.0, 60.0])
GRIDS = {
    "fixed": ((50, 60, 46), AFFINES["RAS"] * 3.0, (0.0, 0.0, 0.0)),
    "moving": ((60, 70, 58), AFFINES["RAS"] * 3.0, (4.0, -3.0, 5.0)),
    "other": ((54, 60, 80), AFFINES["LIA"] * np.array([3.2, 2.8, 2.4]), (20.0, -15.0, 10.0)),
    "head": ((64, 76, 64), AFFINES["RAS"] * 3.0, (0.0, 0.0, -10.0)),
}
"""Shape, linear part and middle of each."""


def points_world(count: int = 100) -> Array:
    """Points that fill the fixed brain's box evenly (R₃ sequence, Roberts 2018): ``[count, 3]``, mm."""
    steps = 1.2207440846057596 ** -np.arange(1, 4)
    return ((0.5 + np.arange(1, count + 1)[:, None] * steps) % 1 - 0.5) * 2.2 * SEMI_AXES_MM


def brain(points: Array) -> Array:
    """Intensities at ``[..., 3]`` points, RAS+ mm: folds, a ventricle, and a lobe that tells sides apart."""
    x, y, z = np.moveaxis(points, -1, 0)
    inside = sigmoid((1 - radius(points) ** 2) * 25)
    folds = np.sin(x / 7) * np.sin(y / 8) * np.sin(z / 6)
    ventricle = np.exp(-(((x - 12) / 8) ** 2 + (y / 22) ** 2 + ((z - 8) / 9) ** 2))
    lobe = 0.35 * np.exp(-(((x - 28) / 22) ** 2 + ((y - 42) / 20) ** 2 + ((z - 18) / 18) ** 2))
    return inside * (0.55 + 0.25 * folds + 0.1 * np.sin(x / 19 + y / 23) + lobe) * (1 - 0.8 * ventricle)


def head(points: Array) -> Array:
    """The brain in a dark rim, a bright scalp and a neck."""
    far = radius(points)
    scalp = 0.9 * sigmoid((far - 1.2) * 60) * sigmoid((1.34 - far) * 60)
    x, y, z = np.moveaxis(points, -1, 0)
    neck = sigmoid((45 - np.hypot(x, y + 20)) / 2) * sigmoid((-76 - z) / 2)
    return np.maximum(np.maximum(brain(points), scalp), 0.5 * neck)


def inverted(points: Array) -> Array:
    """The brain with dark and bright exchanged inside, as T2 shows it."""
    return sigmoid((1 - radius(points) ** 2) * 25) - 0.9 * brain(points)


def folded(points: Array) -> Array:
    """The brain in a contrast that shows dark and bright alike and the middle dark."""
    inside = sigmoid((1 - radius(points) ** 2) * 25)
    return inside * (0.2 + 0.8 * np.abs(2 * brain(points) / np.maximum(inside, 1e-3) - 1))


def radius(points: Array) -> Array:
    """Distance from the middle in semi-axes."""
    return np.linalg.norm(points / SEMI_AXES_MM, axis=-1)


def sigmoid(values: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(values, -60, 60)))


def image(show, grid: str, seen=None) -> Image:
    """``show`` on a grid, through ``seen`` (grid's world to that of ``show``) if it is given; float32."""
    lattice = grid_around(*GRIDS[grid])
    matrix = lattice.voxel_to_world[0].numpy()
    voxels = np.stack(np.meshgrid(*map(np.arange, lattice.shape), indexing="ij"), -1)
    world = voxels @ matrix[:3, :3].T + matrix[:3, 3]
    values = show(world if seen is None else seen(world))
    return Image(torch.from_numpy(values.astype(np.float32))[None, None], lattice, grid)


class Motion:
    """A pose with shear and stretch, and a smooth bend of some mm."""

    def __init__(self, degrees: float, shift=(4.0, -3.0, 5.0), stretch=(1.07, 0.95, 1.0), bend_mm=2.5):
        shear = np.array([[1, 0.05, 0], [0, 1, -0.04], [0.03, 0, 1.0]])
        self.linear, self.shift = oblique(degrees) @ shear * np.array(stretch), np.array(shift)
        self.bend_mm = bend_mm

    def back(self, points: Array) -> Array:
        """Moving world to fixed world."""
        straight = (points - self.shift) @ np.linalg.inv(self.linear).T
        return straight + self._bend(straight)

    def truth(self, points: Array) -> Array:
        """Fixed world to moving world: the inverse of `back`, by iteration."""
        straight = points
        for _ in range(60):
            straight = points - self._bend(straight)
        return straight @ self.linear.T + self.shift

    def _bend(self, points: Array) -> Array:
        x, y, z = np.moveaxis(points, -1, 0)
        waves = np.stack([np.sin(y / 28), np.sin(z / 31 + 1), np.sin(x / 26 + 2)], -1)
        return self.bend_mm * waves


NEAR, TURNED = Motion(4.0), Motion(25.0, (20.0, -15.0, 10.0))


@functools.cache
def fixed(show=brain, grid: str = "fixed") -> Image:
    return image(show, grid)


@functools.cache
def moving(motion=NEAR, show=brain, grid: str = "moving") -> Image:
    return image(show, grid, motion.back)


def cropped(whole: Image, axis: int, keep: slice) -> Image:
    """A part of an array with its place in the world."""
    start, stop, _ = keep.indices(whole.grid.shape[axis])
    first = tuple(start if k == axis else 0 for k in range(3))
    shape = tuple(stop - start if k == axis else n for k, n in enumerate(whole.grid.shape))
    data = whole.data.narrow(2 + axis, start, stop - start).clone()
    return Image(data, whole.grid.crop(first, shape), whole.name)


def half_space(like: Image, axis: int, above_mm: float, sign: int = 1) -> Image:
    """A mask: 1 where a coordinate of the world is above (or, with -1, below) a value."""
    values = sign * (like.grid.points_world()[..., axis] - sign * above_mm) > 0
    return Image(values[:, None].float(), like.grid, "mask")
