"""What is left out is filled from what surrounds it, on any grid, and the rest is left alone."""

import pytest
import torch
from scans import GRIDS, WHITE, implants, scan
from synthetic import AFFINES, grid_around, smooth_image

from patchmorph.images.inpainting import Filled, Outside, inpainted
from patchmorph.images.volume import Image
from patchmorph.spatial.grid import VoxelBox


def ball(grid, radius_mm: float, center=(0.0, 0.0, 0.0)) -> Image:
    """One inside, zero outside."""
    distance = (grid.points_world() - torch.tensor(center)).norm(dim=-1)
    return Image((distance < radius_mm)[:, None].float(), grid, "ball")


def cube(linear: str = "RAS", spacing_mm: float = 3.0, side: int = 24):
    return grid_around((side, side, side), AFFINES[linear] * spacing_mm)


@pytest.mark.parametrize("linear", GRIDS)
@pytest.mark.parametrize("radius_mm", [4.0, 10.0, 20.0])
def test_a_hole_in_a_uniform_region_disappears(linear, radius_mm):
    grid = cube(linear)
    hole = ball(grid, radius_mm)
    damaged = Image(torch.where(hole.data > 0, 9.0, 0.6), grid)
    torch.testing.assert_close(inpainted(damaged, hole).values(), torch.full_like(hole.data, 0.6))


@pytest.mark.parametrize("linear", GRIDS)
def test_the_rest_is_left_alone(linear):
    image = smooth_image(grid_around((34, 40, 32), AFFINES[linear] * 5))
    hole = ball(image.grid, 15, (20, -15, 10))
    found = inpainted(image, hole).values()
    outside = hole.data == 0
    assert torch.equal(found[outside], image.data[outside])
    assert not torch.equal(found[~outside], image.data[~outside])


def test_what_the_hole_shows_does_not_matter():
    grid = cube()
    hole, image = ball(grid, 9), smooth_image(grid)
    one, other = (Image(torch.where(hole.data > 0, value, image.data), grid) for value in (0.0, 500.0))
    assert torch.equal(inpainted(one, hole).values(), inpainted(other, hole).values())


def test_a_symmetrical_hole_in_a_slope_is_filled_with_its_middle():
    """The mean over a symmetrical neighbourhood of a linear function is its value in the middle."""
    grid = grid_around((25, 25, 25), AFFINES["RAS"] * 2.0)
    x, y, z = grid.points_world()[0].unbind(-1)
    slope = Image((0.5 + 0.004 * x - 0.003 * y + 0.002 * z)[None, None], grid)
    hole = torch.zeros_like(slope.data)
    hole[..., 11:14, 11:14, 11:14] = 1
    found = inpainted(slope, Image(hole, grid)).values()
    assert found[0, 0, 12, 12, 12] == pytest.approx(0.5, abs=1e-5)
    assert ((found - slope.data).abs()[hole > 0] < 0.02).all()  # of a range of 0.3


def test_holes_are_filled_from_nearby():
    """A small hole in a dark half stays dark, and one in the bright half bright."""
    grid = cube()
    bright = (grid.points_world()[..., 0] > 0)[:, None].float()
    for side in (-1, 1):
        hole = ball(grid, 5, (18.0 * side, 0, 0))
        found = inpainted(Image(0.2 + 0.6 * bright, grid), hole).values()[hole.data > 0]
        torch.testing.assert_close(found, torch.full_like(found, 0.5 + 0.3 * side))


def test_one_known_voxel_does_not_fill_a_hole():
    """A third of a neighbourhood must be known: next to the one, others weigh nearly all."""
    grid = cube(side=25)
    hole = ball(grid, 20)
    hole.data[..., 12, 12, 12] = 0
    image = Image(torch.full_like(hole.data, 0.5), grid)
    image.data[..., 12, 12, 12] = 50
    found = inpainted(image, hole).values()
    assert found[0, 0, 12, 12, 13] < 1
    assert found[0, 0, 12, 12, 12] == 50


def test_filled_values_lie_between_those_around():
    for linear in GRIDS:
        image = scan("brain", linear)
        where = implants(image, 0.02, side=4)
        found = inpainted(
            Image(torch.where(where, 50 * WHITE, image.data), image.grid), Image(where.float(), image.grid)
        )
        values = found.values()[where]
        assert values.min() >= 0
        assert values.max() <= image.data.max()
        # Nearer to the truth than any one value can be.
        assert (values - image.data[where]).abs().mean() < 0.8 * image.data[where].std()


@pytest.mark.parametrize("linear", GRIDS)
def test_the_mask_may_have_another_grid(linear):
    image = smooth_image(cube("RAS"))
    other = grid_around((40, 36, 44), AFFINES[linear] * 2.0, (1.0, 2, -1))
    here, there = ball(image.grid, 13), ball(other, 13)
    damaged = Image(torch.where(ball(image.grid, 10).data > 0, 7.0, image.data), image.grid)
    found, expected = inpainted(damaged, there).values(), inpainted(damaged, here).values()
    apart = (image.grid.points_world().norm(dim=-1)[:, None] - 13).abs() > 2  # a voxel of the other grid
    # At the rim of the hole, other voxels of the surroundings are known.
    torch.testing.assert_close(found[apart], expected[apart], atol=0.2, rtol=0)
    assert (found - expected)[here.data > 0].abs().mean() < 0.05


def test_outside_the_mask_image_nothing_is_filled():
    image = smooth_image(cube())
    small = grid_around((6, 6, 6), AFFINES["RAS"] * 2.0)
    found = inpainted(image, Image(torch.ones(1, 1, 6, 6, 6), small)).values()
    beyond = (image.grid.points_world().abs() > 7.1).any(-1)[:, None]
    assert torch.equal(found[beyond], image.data[beyond])


def test_a_mask_of_everything_leaves_nothing():
    image = smooth_image(cube(side=12))
    assert not inpainted(image, Image(torch.ones_like(image.data), image.grid)).values().any()


def test_an_empty_mask_leaves_everything():
    image = smooth_image(cube(side=12))
    assert torch.equal(inpainted(image, Image(torch.zeros_like(image.data), image.grid)).values(), image.data)


def test_blocks_are_those_of_the_whole(linear):
    image = smooth_image(grid_around((26, 30, 24), linear * 6))
    found = inpainted(image, ball(image.grid, 30))
    whole = found.values()
    for box in (VoxelBox((0, 0, 0), (13, 30, 24)), VoxelBox((9, 8, 7), (19, 12, 20))):
        torch.testing.assert_close(found.read(box), whole[(..., *box.slices)], atol=1e-5, rtol=0)


def test_half_covered_voxels_are_known():
    """A mask of exactly one half is outside, as for all masks."""
    grid = cube(side=8)
    values = torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    half = Image(torch.full_like(values, 0.5), grid)
    assert torch.equal(inpainted(Image(values, grid), half).values(), values)
    more = Image(torch.full_like(values, 0.51), grid)
    assert not inpainted(Image(values, grid), more).values().any()


def test_the_parts_of_an_inpainting_are_zero_inside_of_the_mask():
    grid = cube(side=10)
    mask = ball(grid, 9)
    values = torch.full_like(mask.data, 3.0)
    assert torch.equal(Outside(mask, 3.0)(values, grid), 3 * (1 - mask.data))
    assert torch.equal(Outside(mask, 3.0, unit=True)(values, grid), 1 - mask.data)
    filled = inpainted(Image(values, grid), mask).intensity_maps[0]
    assert isinstance(filled, Filled)
    assert torch.equal(filled.known.values(), 3 * filled.share.values())
