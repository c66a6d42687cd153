import pytest
import torch
from synthetic import AFFINES, grid_around, smooth_image

from patchmorph.images import pyramid
from patchmorph.images.pyramid import downsample, level_shape, level_spacing
from patchmorph.images.volume import Image


def test_a_level_has_the_spacing_that_was_asked_for(linear):
    image = smooth_image(grid_around((40, 44, 48), linear * 3))
    level = image.level(9.0)
    torch.testing.assert_close(level.grid.spacing_mm, torch.full((1, 3), 9.0, dtype=torch.float64))
    torch.testing.assert_close(level.grid.center_world, image.grid.center_world)


def test_axes_that_are_coarse_enough_stay():
    image = Image(
        torch.rand(1, 1, 20, 20, 10), grid_around((20, 20, 10), torch.diag(torch.tensor([1.0, 1, 4])).numpy())
    )
    assert image.level(3.5).grid.shape == (6, 6, 10)
    assert image.level(1.1) is image.level(1.0) is image


def test_detail_finer_than_the_level_disappears_instead_of_aliasing():
    checkers = (torch.arange(64)[:, None, None] + torch.arange(64)[:, None] + torch.arange(64)) % 2
    image = Image(checkers[None, None].float(), grid_around((64, 64, 64), torch.eye(3).numpy()))
    inner = image.level(5.0).values()[..., 2:-2, 2:-2, 2:-2]
    # A triangle filter passes (sin x / x)² of the pattern along each axis: below 1e-3 in three dimensions.
    assert (inner - 0.5).abs().max() < 1e-3


def test_a_mirrored_array_has_mirrored_levels():
    data = torch.rand(1, 1, 23, 30, 17, generator=torch.Generator().manual_seed(0))
    grid = grid_around((23, 30, 17), torch.eye(3).numpy())
    level = Image(data, grid).level(3.0).values()
    mirrored = Image(data.flip(2), grid).level(3.0).values()
    torch.testing.assert_close(mirrored.flip(2), level)


def test_constant_images_stay_constant():
    image = Image(torch.full((1, 1, 21, 22, 23), 0.7), grid_around((21, 22, 23), torch.eye(3).numpy()))
    torch.testing.assert_close(image.level(4.0).values(), torch.full_like(image.level(4.0).values(), 0.7))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int16])
@pytest.mark.parametrize("spacing_mm", [(3.1, 2.7, 4.0), (1.0, 2.7, 4.0), (3.1, 1.0, 1.0)])
def test_a_volume_that_is_read_in_slabs_has_the_level_of_the_whole(monkeypatch, dtype, spacing_mm):
    grid = grid_around((23, 10, 12), AFFINES["LAS"], (3, -2, 7))
    generator = torch.Generator().manual_seed(0)
    data = (torch.rand(1, 2, 23, 10, 12, generator=generator) * 1000).to(dtype)
    image = Image(data, grid)
    whole, whole_grid = downsample(image.read, grid, spacing_mm)
    # Also slabs of one slice, and a last one that is thinner than the others.
    for voxels, slabs in ((1, 23), (120 * 5 + 7, 5), (120 * 10, 3)):
        boxes = []

        def read(box, boxes=boxes):
            boxes.append(box)
            return image.read(box)

        monkeypatch.setattr(pyramid, "SLAB_VOXELS", voxels)
        found, found_grid = downsample(read, grid, spacing_mm)
        assert len(boxes) == slabs
        torch.testing.assert_close(found, whole, atol=1e-3, rtol=0)  # 1e-6 of 1000
        assert found_grid.equals(whole_grid)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_level_is_the_mean_by_triangle_weights(axis):
    """By hand along one axis: seven voxels in four of twice the width, centred on the same place.

    The coarse centres lie at voxels 0, 2, 4 and 6; their weights are 1 there and 1/2 beside it, and the
    outermost two have one neighbour only.
    """
    values = torch.tensor([3.0, 8, 1, 6, 2, 9, 4])
    expected = torch.tensor(
        [(3 + 8 / 2) / 1.5, (8 / 2 + 1 + 6 / 2) / 2, (6 / 2 + 2 + 9 / 2) / 2, (9 / 2 + 4) / 1.5]
    )
    shape = [1, 1, 1]
    shape[axis] = 7
    data = values.reshape(1, 1, *shape)
    image = Image(data, grid_around(tuple(shape), AFFINES["RAS"]))
    spacing = tuple(2.0 if k == axis else 1.0 for k in range(3))
    found, grid = downsample(image.read, image.grid, spacing)
    torch.testing.assert_close(found.flatten(), expected)
    first = grid.points_world()[0, 0, 0, 0, axis]
    torch.testing.assert_close(first, image.grid.points_world()[0, 0, 0, 0, axis])


def test_the_shape_of_a_level_is_known_before_it_is_computed(linear):
    image = smooth_image(grid_around((30, 31, 17), linear * 2))
    for wanted in (1.0, 2.3, 3.7, 9.0):
        level = image.level(wanted)
        assert level.grid.shape == level_shape(image.grid.shape, image.spacing_mm, wanted)
        expected = torch.tensor([level_spacing(image.spacing_mm, wanted)], dtype=torch.float64)
        torch.testing.assert_close(level.grid.spacing_mm, expected)
