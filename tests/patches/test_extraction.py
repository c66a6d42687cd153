import pytest
import torch
from synthetic import AFFINES, grid_around, smooth_image

from patchmorph.images.volume import Image
from patchmorph.patches.blending import smooth
from patchmorph.patches.extraction import (
    extract,
    extract_pair,
    map_points,
    matrix_to_world,
    velocity_to_world,
)
from patchmorph.patches.nested import draw_placement, nested_chain
from patchmorph.spatial.affine import apply_affine
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.velocity import VelocityField


def test_a_patch_shows_the_image_at_its_points(linear):
    image = smooth_image(grid_around((130, 130, 130), linear))
    patch = Grid.centered((16, 16, 16), 2.0, torch.tensor([[10.0, 5, -3], [0, 0, 0]]))
    shift = AffineTransform.translation(torch.tensor([[4.0, 0, -2]]))
    direct = image.sample(patch.points_world() + torch.tensor([4.0, 0, -2]), 2.0)
    torch.testing.assert_close(extract(image, patch, 2.0, shift), direct, atol=1e-5, rtol=0)


def test_a_shift_of_one_patch_voxel_is_its_spacing_in_the_world(linear):
    patch = grid_around((8, 8, 8), linear, (3, 4, 5))
    matrix = torch.eye(4)[None].clone()
    matrix[0, 0, 3] = 1
    center = patch.center_world[:, None]
    moved = apply_affine(matrix_to_world(matrix, patch), center)
    torch.testing.assert_close((moved - center)[0, 0], torch.from_numpy(linear[:, 0].copy()))
    velocity = torch.zeros(1, 3, 4, 4, 4)
    velocity[:, 0] = 1
    torch.testing.assert_close(
        velocity_to_world(velocity, patch)[0, :, 0, 0, 0], torch.from_numpy(linear[:, 0].copy()).float()
    )


def test_a_matrix_acts_about_the_middle_of_the_patch(linear):
    patch = grid_around((8, 8, 8), linear, (30, 40, 50))
    doubling = torch.diag(torch.tensor([2.0, 2, 2, 1]))[None]
    world = matrix_to_world(doubling, patch)
    center = patch.center_world[:, None]
    torch.testing.assert_close(apply_affine(world, center), center)
    torch.testing.assert_close(apply_affine(world, center + 1), center + 2)


def test_a_child_patch_sees_its_parents_displacement_exactly():
    """What a child finds by sampling is the interpolated value of the parent's own grid."""
    generator = torch.Generator().manual_seed(0)
    parent, child = nested_chain(torch.randn(2, 3) * 10, draw_placement(2, 2, generator), 16, [4.0, 2.0])
    velocity = 3 * torch.randn(2, 3, 8, 8, 8, generator=generator)
    field = VelocityField(velocity, parent.coarsen(2))
    seen = field(child.points_world()) - child.points_world()
    # By hand, for one child voxel: the eight parent values around it, weighted trilinearly.
    index = parent.coarsen(2).to_voxel(child.points_world())[1, 5, 6, 7].clamp(0, 7)
    lower = index.floor().long().clamp(max=6)
    fraction = index - lower
    values = field.flow.displacement[1][:, *(slice(k, k + 2) for k in lower.tolist())]
    for axis in range(3):
        values = values[:, 0] * (1 - fraction[axis]) + values[:, 1] * fraction[axis]
    torch.testing.assert_close(seen[1, 5, 6, 7], values, atol=1e-4, rtol=0)


def test_a_pair_shows_nothing_outside_the_field_of_view_of_the_moving_image():
    image = smooth_image(grid_around((40, 44, 36), AFFINES["RAS"] * 4))
    part = Image(
        image.data[:, :, 12:], image.grid.crop((12, 0, 0), (28, 44, 36)), "part", truncated_faces=((0, 0),)
    )
    patch = Grid.centered((24, 24, 24), 6.0, torch.zeros(1, 3))
    shift = AffineTransform.translation(torch.tensor([[6.0, 0.0, 0.0]]))
    in_view = part.in_field_of_view(shift(patch.points_world()))
    assert in_view is not None
    assert 0.1 < in_view.float().mean() < 0.9
    whole, cut = (extract_pair(image, moving, patch, 6.0, shift) for moving in (image, part))
    assert (cut[:, :, ~in_view[0]] == 0).all()
    assert torch.equal(cut[:, 0][in_view], whole[:, 0][in_view])
    assert (whole[:, 0][~in_view] > 0.1).any()


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_pair_shows_nothing_outside_the_field_of_view_of_either_image(axis, side):
    """The fixed one's where its own points lie, the moving one's where they go."""
    grid = grid_around((24, 26, 22), AFFINES["LAS"] * 4)
    whole = Image(torch.ones(1, 1, *grid.shape), grid, "whole")
    part = Image(whole.data, grid, "part", truncated_faces=((axis, side),))
    patch = Grid.centered((20, 20, 20), 8.0, torch.ones(1, 3))  # no point on a voxel's face
    shift = AffineTransform.translation(torch.tensor([[10.0, -12.0, 14.0]]))
    points = patch.points_world()
    for fixed, moving, places in ((part, whole, points), (whole, part, shift(points))):
        voxel = grid.to_voxel(places)[0, ..., axis]
        outside = voxel > grid.shape[axis] - 0.5 if side else voxel < -0.5
        assert 0.05 < outside.float().mean() < 0.6
        pair = extract_pair(fixed, moving, patch, 8.0, shift)
        plain = torch.cat([extract(whole, patch, 8.0), extract(whole, patch, 8.0, shift)], dim=1)
        assert (pair[0, :, outside] == 0).all()
        assert torch.equal(pair[0, :, ~outside], plain[0, :, ~outside])
        assert (pair[0, :, ~outside] > 0.5).any(dim=1).all()  # both channels show something


def test_a_pair_is_fixed_then_moving_at_the_resolution_of_the_patch():
    images = [smooth_image(grid_around((60, 66, 58), AFFINES[name] * 3)) for name in ("RAS", "LIA")]
    images[1].data[:] = images[1].data * 0.5
    patch = Grid.centered((12, 12, 12), 8.0, torch.zeros(1, 3))
    shift = AffineTransform.translation(torch.tensor([[6.0, 0.0, -5.0]]))
    pair = extract_pair(images[0], images[1], patch, 8.0, shift)
    points = patch.points_world()
    for channel, (image, places) in enumerate(((images[0], points), (images[1], shift(points)))):
        torch.testing.assert_close(pair[:, channel : channel + 1], image.sample(places, 8.0))
        assert (pair[:, channel : channel + 1] - image.sample(places, 3.0)).abs().max() > 0.02


@pytest.fixture
def patch_and_fields():
    """A patch of 2 mm, and velocities with the same axes on grids of 16 and 4 mm."""
    generator = torch.Generator().manual_seed(0)
    patch = Grid.centered((16, 12, 8), 2.0, torch.tensor([[3.0, -4, 5]]))

    def field(spacing_mm: float, amplitude_mm: float) -> VelocityField:
        velocity = smooth(amplitude_mm * torch.randn(1, 3, 12, 12, 12, generator=generator), 0.7)
        return VelocityField(velocity, Grid.centered((12, 12, 12), spacing_mm, patch.center_world + 0.3))

    return patch, field(16.0, 6.0), field(4.0, 2.0)


def test_points_of_a_patch_are_mapped_as_any_points(patch_and_fields):
    """Exactly by one velocity field, nearly by one inside a coarser one."""
    patch, coarse, fine = patch_and_fields
    points = patch.points_world()
    affine = AffineTransform(torch.eye(4)[None] + 0.1 * torch.randn(4, 4).tril(-1))
    with torch.no_grad():
        for transform in (affine, fine, affine @ fine):
            torch.testing.assert_close(
                map_points(transform, patch, points), transform(points), atol=1e-4, rtol=0
            )
        transform = affine @ coarse @ fine
        exact, found = transform(points), map_points(transform, patch, points)
        without = (affine @ fine)(points)
    assert (found - exact).norm(dim=-1).mean() < 0.02 * (exact - without).norm(dim=-1).mean()


def test_points_of_an_oblique_patch_are_mapped_one_by_one(patch_and_fields):
    _, coarse, fine = patch_and_fields
    patch = grid_around((8, 8, 8), AFFINES["oblique"])
    with torch.no_grad():
        found = map_points(coarse @ fine, patch, patch.points_world())
        assert torch.equal(found, (coarse @ fine)(patch.points_world()))
