import pytest
import torch
from synthetic import AFFINES, grid_around, rotation, smooth_image, smooth_velocity

from patchmorph.spatial.image import Image
from patchmorph.spatial.sampling import INTERPOLATIONS
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.resample import resample
from patchmorph.transforms.velocity import VelocityField


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


def ending_flow(linear) -> VelocityField:
    """Nothing flows at the ends of its grid, which is smaller than the image's."""
    flow = smooth_velocity(grid_around((14, 15, 16), linear * 3, (8.0, -5, 3)), 4.0)
    inside = torch.zeros(1, 1, *flow.grid.shape)
    inside[:, :, 1:-1, 1:-1, 1:-1] = 1
    return VelocityField(flow.velocity * inside, flow.grid)


def test_voxels_that_no_field_reaches_are_where_the_whole_map_takes_them(linear):
    grid = grid_around((44, 40, 42), AFFINES["LIA"] * 2)
    moving = smooth_image(grid_around((60, 60, 60), AFFINES["RAS"] * 2))
    flow = ending_flow(linear)
    for transform in (
        rotation(10) @ flow @ rotation(-25) @ flow.inverse(),
        rotation(10) @ smooth_velocity(flow.grid, 4.0),  # goes on beyond its grid
        DisplacementField(flow.flow.displacement + 1, flow.grid, outside="zeros"),
        flow.flow.inverse(),
    ):
        warped = resample(moving, transform, grid)
        torch.testing.assert_close(
            warped.data, moving.sample(transform(grid.points_world()), 2.0), atol=1e-4, rtol=0
        )


def test_support_is_where_a_map_moves_points(linear):
    flow = ending_flow(linear)
    for part in (flow, flow.flow, flow.inverse(), flow.flow.inverse()):
        assert part.support() is flow.grid
    assert smooth_velocity(flow.grid, 4.0).support() is None
    assert rotation().support() is None


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_integers_stay_within_their_range(interpolation):
    grid = grid_around((20, 20, 20), torch.eye(3).numpy())
    checkers = 255 * (
        (torch.arange(20)[:, None, None] + torch.arange(20)[:, None] + torch.arange(20)) // 5 % 2
    )
    shift = AffineTransform.translation(torch.tensor([[0.5, 0.3, 0.2]]))
    image = Image(checkers[None, None].to(torch.uint8), grid)
    exact = resample(Image(image.data.float(), grid), shift, grid, interpolation).data
    found = resample(image, shift, grid, interpolation).data
    torch.testing.assert_close(found, exact.round().clamp(0, 255).to(torch.uint8), atol=1, rtol=0)


def test_background_lies_beyond_the_image():
    grid = grid_around((10, 10, 10), torch.eye(3).numpy())
    image = Image(torch.full((1, 1, 10, 10, 10), 5.0), grid)
    far = AffineTransform.translation(torch.tensor([[6.0, 0, 0]]))
    for interpolation in INTERPOLATIONS:
        warped = resample(image, far, grid, interpolation, -2).data
        inner = warped[0, 0, :3, 1:-1, 1:-1]
        torch.testing.assert_close(inner, torch.full_like(inner, 5))
        assert torch.all(warped[0, 0, 5:] == -2)
