import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from synthetic import AFFINES, grid_around, rotation, smooth_image, smooth_velocity

from patchmorph.images.volume import Image
from patchmorph.spatial.sampling import INTERPOLATIONS
from patchmorph.transforms.base import AffineTransform
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


def test_detail_is_kept_along_the_finest_axis_of_a_grid():
    """A grid of thick slices: the level that serves its thickness would have lost the stripes."""
    stripes = (torch.arange(48) // 4 % 2).float()[:, None, None].expand(48, 48, 48)
    image = Image(stripes[None, None].contiguous(), grid_around((48, 48, 48), torch.eye(3).numpy()))
    thick = grid_around((48, 48, 6), torch.diag(torch.tensor([1.0, 1, 8])).numpy())
    found = resample(image, AffineTransform.identity(), thick).data[0, 0, 1:-1, 1:-1, 1:-1]
    torch.testing.assert_close(found[:, 20, 2], stripes[1:-1, 0, 0], atol=1e-5, rtol=0)


def test_masks_of_two_values_are_cut_in_the_middle():
    """A shift by 0.3 of a voxel leaves 0.7 and 0.3 at the two faces."""
    grid = grid_around((8, 8, 8), torch.eye(3).numpy())
    mask = torch.zeros(1, 1, 8, 8, 8, dtype=torch.uint8)
    mask[:, :, 2:6, 2:6, 2:6] = 1
    for shift, moved in ((0.3, 0), (0.7, 1)):
        transform = AffineTransform.translation(torch.tensor([[shift, 0.0, 0.0]]))
        found = resample(Image(mask, grid), transform, grid).data
        assert found.dtype == torch.uint8
        assert torch.equal(found, mask.roll(-moved, 2))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_voxel_reaches_half_its_width(interpolation):
    """All but linear interpolation, which fades there, show the outermost voxel up to its face."""
    grid = grid_around((6, 6, 6), torch.eye(3).numpy())
    image = Image(torch.full((1, 1, 6, 6, 6), 5.0), grid)
    for side, within in ((0.45, True), (0.55, False)):
        for shift, face in ((side, -1), (-side, 0)):
            transform = AffineTransform.translation(torch.tensor([[0.0, shift, 0.0]]))
            found = resample(image, transform, grid, interpolation, -2).data[0, 0, 2, face, 2].item()
            faded = 5 - 7 * side  # from 5 at the voxel's centre to −2 a voxel away
            expected = faded if interpolation == "linear" else 5 if within else -2
            assert found == pytest.approx(expected, abs=1e-4)


def test_cubic_interpolation_is_that_of_scipy():
    generator = torch.Generator().manual_seed(0)
    grid = grid_around((7, 8, 9), torch.eye(3).numpy())
    image = Image(torch.rand(1, 1, 7, 8, 9, generator=generator), grid)
    inner = grid.crop((1, 1, 1), (5, 6, 7))
    shift = torch.tensor([[0.3, -0.4, 0.2]])
    found = resample(image, AffineTransform.translation(shift), inner, "cubic").data[0, 0].numpy()
    places = grid.to_voxel(inner.points_world() + shift)[0].movedim(-1, 0).numpy()
    expected = ndimage.map_coordinates(image.data[0, 0].numpy(), places, order=3, mode="mirror")
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize("background", [math.nan, math.inf, -math.inf])
def test_an_integer_type_has_no_number_for_a_background_that_is_none(dtype, interpolation, background):
    grid = grid_around((6, 6, 6), np.eye(3))
    image = Image(torch.full((1, 1, 6, 6, 6), 7, dtype=dtype), grid)
    far = AffineTransform.translation(torch.tensor([[3.0, 0, 0]]))
    found = resample(image, far, grid, interpolation, background).data
    limits = torch.iinfo(dtype)
    expected = {math.inf: limits.max, -math.inf: limits.min}.get(background, 0)
    assert set(found.unique().tolist()) == {7, expected}
