import torch
from synthetic import grid_around, rotation, smooth_image

from patchmorph.spatial.image import Image
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.resample import resample


def test_the_identity_on_the_own_grid_changes_nothing(linear):
    grid = grid_around((20, 21, 22), linear)
    image = Image(torch.randint(0, 255, (1, 1, *grid.shape), dtype=torch.uint8), grid)
    for interpolation in ("linear", "nearest", "label"):
        result = resample(image, AffineTransform.identity(), grid, interpolation)
        assert result.data.dtype == torch.uint8
        inner = (..., slice(1, -1), slice(1, -1), slice(1, -1))  # linear fades over the outermost half voxel
        torch.testing.assert_close(result.data[inner], image.data[inner])


def test_warped_is_the_moving_image_at_the_mapped_points(linear):
    moving = smooth_image(grid_around((150, 170, 150), torch.eye(3).numpy()))
    grid = grid_around((40, 40, 40), linear)
    warped = resample(moving, rotation(), grid)
    mapped = rotation()(grid.points_world())
    torch.testing.assert_close(warped.data, moving.sample(mapped, 1.0))


def test_a_coarser_grid_gets_no_aliases():
    checkers = (torch.arange(48)[:, None, None] + torch.arange(48)[:, None] + torch.arange(48)) % 2
    image = Image(checkers[None, None].float(), grid_around((48, 48, 48), torch.eye(3).numpy()))
    coarse = resample(image, AffineTransform.identity(), grid_around((8, 8, 8), torch.eye(3).numpy() * 4))
    assert (coarse.data - 0.5).abs().max() < 0.01


def test_ids_above_the_range_of_float32_survive():
    grid = grid_around((6, 6, 6), torch.eye(3).numpy())
    ids = torch.full((1, 1, 6, 6, 6), 2**24 + 3, dtype=torch.int32)
    for interpolation in ("nearest", "label"):
        warped = resample(Image(ids, grid), rotation(5), grid, interpolation)
        assert set(warped.data.unique().tolist()) <= {0, 2**24 + 3}
        assert (warped.data == 2**24 + 3).any()
