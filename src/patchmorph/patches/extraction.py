"""Between the world and the frame of a patch.

A patch is a `Grid` of constant shape. A network sees its voxels and answers in its frame: lengths in patch
voxels, axes of the patch array, origin in its middle. The two conversions of such answers live here.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.images.in_memory import ImageSource
from patchmorph.spatial.affine import from_translation, invert_affine, rotate_vectors
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import Transform


def extract(
    image: ImageSource, patch: Grid, spacing_mm: float, transform: Transform | None = None
) -> Float[Tensor, "b c x y z"]:
    """``image`` at the points of ``patch``, pulled through ``transform`` if one is given."""
    points = patch.points_world()
    return image.sample(points if transform is None else transform(points), spacing_mm)


def extract_pair(
    fixed: ImageSource, moving: ImageSource, patch: Grid, spacing_mm: float, transform: Transform
) -> Float[Tensor, "b 2 x y z"]:
    """``fixed``, and ``moving`` pulled through ``transform``, at the points of ``patch``.

    Where one image does not know what there is, both show nothing: what has no counterpart leads nowhere.
    """
    points = patch.points_world()
    mapped = transform(points)
    pair = torch.cat([fixed.sample(points, spacing_mm), moving.sample(mapped, spacing_mm)], dim=1)
    for known in (fixed.known(points), moving.known(mapped)):
        pair = pair if known is None else pair * known[:, None]
    return pair


def matrix_to_world(matrix: Float[Tensor, "b 4 4"], patch: Grid) -> Float[Tensor, "b 4 4"]:
    """An affine map in the frame of ``patch`` as a map of the world, float64."""
    center = from_translation(patch.center_world)
    patch_to_world = center @ _without_translation(patch.voxel_to_world)
    return patch_to_world @ matrix.double() @ invert_affine(patch_to_world)


def velocity_to_world(velocity: Float[Tensor, "b 3 u v w"], patch: Grid) -> Float[Tensor, "b 3 u v w"]:
    """Velocity in voxels of ``patch`` (along its array axes) as mm along the world axes."""
    return rotate_vectors(patch.voxel_to_world[:, :3, :3], velocity)


def _without_translation(matrix: Float[Tensor, "b 4 4"]) -> Float[Tensor, "b 4 4"]:
    linear = matrix.clone()
    linear[:, :3, 3] = 0
    return linear
