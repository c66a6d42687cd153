import torch
from synthetic import grid_around, smooth_image

from patchmorph.images.in_memory import Image


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
    inner = image.level(5.0).data[..., 2:-2, 2:-2, 2:-2]
    # A triangle filter passes (sin x / x)² of the pattern along each axis: below 1e-3 in three dimensions.
    assert (inner - 0.5).abs().max() < 1e-3


def test_a_mirrored_array_has_mirrored_levels():
    data = torch.rand(1, 1, 23, 30, 17, generator=torch.Generator().manual_seed(0))
    grid = grid_around((23, 30, 17), torch.eye(3).numpy())
    level = Image(data, grid).level(3.0).data
    mirrored = Image(data.flip(2), grid).level(3.0).data
    torch.testing.assert_close(mirrored.flip(2), level)


def test_constant_images_stay_constant():
    image = Image(torch.full((1, 1, 21, 22, 23), 0.7), grid_around((21, 22, 23), torch.eye(3).numpy()))
    torch.testing.assert_close(image.level(4.0).data, torch.full_like(image.level(4.0).data, 0.7))
