"""Sampling of images at patches, and conversion of predictions from the patch frame to the world.

A patch is a `Grid` of constant shape. A network takes its voxels and predicts in its frame: lengths in patch
voxels, along the patch's array axes, origin at its centre.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from patchmorph.images.abstract import AbstractImage
from patchmorph.spatial.affine import constant_scaling, rotate_vectors
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.lattices import along_axes, sample_lattice
from patchmorph.transforms.base import AffineTransform, Transform, compose
from patchmorph.transforms.velocity import VelocityField

BLOCK = 2
"""Voxels along each side of the blocks between whose middles `map_points` interpolates."""


def extract(
    image: AbstractImage, patch: Grid, spacing_mm: float, transform: Transform | None = None
) -> Float[Tensor, "b c x y z"]:
    """``image`` at the points of ``patch``, pulled through ``transform`` if one is given."""
    if transform is None:
        return image.sample_grid(patch, spacing_mm)
    return image.sample(transform(patch.points_world()), spacing_mm)


def extract_pair(
    fixed: AbstractImage,
    moving: AbstractImage,
    patch: Grid,
    spacing_mm: float,
    transform: Transform,
) -> Float[Tensor, "b 2 x y z"]:
    """``fixed``, and ``moving`` pulled through ``transform``, at the points of ``patch``.

    Outside the field of view of either image both are zero: regions without a counterpart have no effect.
    """
    return FixedPatch(fixed, patch, spacing_mm).with_moving(moving, transform)


class FixedPatch:
    """A patch of a fixed image, sampled once for any number of maps (see `extract_pair`).

    Attributes:
        patch: its grid.
        spacing_mm: of the levels that are sampled.
        points: ``[B, X, Y, Z, 3]``, RAS+ mm.
        values: ``[B, 1, X, Y, Z]``.
        in_view: ``[B, X, Y, Z]``, whether the fixed image was acquired there; ``None``: everywhere.
    """

    def __init__(self, fixed: AbstractImage, patch: Grid, spacing_mm: float):
        self.patch, self.spacing_mm = patch, spacing_mm
        self.points, self.values = patch.points_world(), fixed.sample_grid(patch, spacing_mm)
        self.in_view = fixed.in_field_of_view(self.points)

    def with_moving(self, moving: AbstractImage, transform: Transform) -> Float[Tensor, "b 2 x y z"]:
        """The patch, and ``moving`` pulled through ``transform`` at its points."""
        mapped = map_points(transform, self.patch, self.points)
        pair = torch.cat([self.values, moving.sample(mapped, self.spacing_mm)], dim=1)
        for in_view in (self.in_view, moving.in_field_of_view(mapped)):
            pair = pair if in_view is None else pair * in_view[:, None]
        return pair


def map_points(
    transform: Transform, patch: Grid, points: Float[Tensor, "b x y z 3"]
) -> Float[Tensor, "b x y z 3"]:
    """The ``points`` of ``patch``, mapped.

    Without gradients a last velocity field, which bends most, is read along the axes where they are those of
    the patch. What the fields before it add is interpolated between the middles of blocks of `BLOCK` voxels,
    since their grids are much coarser (docs/decisions/004).
    """
    *before, last = transform.parts()
    if torch.is_grad_enabled() or not isinstance(last, VelocityField):
        return transform(points)
    displacement = last.flow.along_axes(patch)
    if displacement is None or not before or any(n % BLOCK for n in patch.shape):
        return transform(points)
    outer, affine = compose(*before), transform.affine_part()
    moved = affine(points + displacement.movedim(1, -1))
    if isinstance(outer, AffineTransform):
        return moved
    coarse = patch.coarsen(BLOCK).widened(1)
    middles = last.at_grid(coarse)
    remainder = (outer(middles) - affine(middles)).movedim(-1, 1)
    to_coarse = coarse.world_to_voxel @ patch.voxel_to_world
    axes = along_axes(to_coarse, patch.shape)
    assert axes is not None, "a grid and its blocks have the same axes"
    fine = sample_lattice(remainder, to_coarse, axes, patch.shape, "border")
    return moved + fine.movedim(1, -1)


def matrix_to_world(matrix: Float[Tensor, "b 4 4"], patch: Grid) -> Float[Tensor, "b 4 4"]:
    """An affine map in the frame of ``patch`` as a map of the world, float64."""
    middle, device = [(count - 1) / 2 for count in patch.shape], patch.voxel_to_world.device
    from_center = constant_scaling((1, 1, 1), tuple(middle), device)
    to_center = constant_scaling((1, 1, 1), tuple(-half for half in middle), device)
    return patch.voxel_to_world @ from_center @ matrix.double() @ to_center @ patch.world_to_voxel


def velocity_to_world(velocity: Float[Tensor, "b 3 u v w"], patch: Grid) -> Float[Tensor, "b 3 u v w"]:
    """Velocity in voxels of ``patch`` (along its array axes) as mm along the world axes."""
    return rotate_vectors(patch.voxel_to_world[:, :3, :3], velocity)
