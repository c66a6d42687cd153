import pytest
import torch
from synthetic import grid_around, smooth_image

from patchmorph.errors import PatchMorphError
from patchmorph.images.in_memory import Image


def image_of(data):
    return Image(data[None, None], grid_around(tuple(data.shape), torch.eye(3).numpy()), "sub-01.nii.gz")


def test_normalizing_maps_the_range_to_zero_and_one():
    image = image_of(torch.linspace(-50, 950, 1000).reshape(10, 10, 10)).normalized()
    assert image.data.min() == 0
    assert image.data.max() == 1
    # From the first percentile, 10 above the minimum, to the 99.8th of the rest, 988 above that.
    assert image.data.median().item() == pytest.approx((499 - 10) / 988, abs=2e-3)


def test_normalizing_does_not_depend_on_gain_and_offset():
    data = torch.rand(8, 9, 10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(image_of(data).normalized().data, image_of(data * 321 - 40).normalized().data)


def test_a_few_voxels_below_the_background_do_not_lift_it():
    data = torch.zeros(20, 20, 20)
    data[5:15, 5:15, 5:15] = torch.rand(10, 10, 10, generator=torch.Generator().manual_seed(0)) + 0.5
    clean = image_of(data.clone()).normalized().data
    data[0, 0, :5] = -0.5
    torch.testing.assert_close(image_of(data).normalized().data, clean)


@pytest.mark.parametrize(
    ("value", "message"), [(0.0, "must have content, got 0"), (float("nan"), "must be finite")]
)
def test_unusable_images_are_named(value, message):
    with pytest.raises(PatchMorphError, match=f"{message}.*sub-01.nii.gz"):
        image_of(torch.full((4, 4, 4), value)).normalized()


def test_the_same_object_on_other_grids_looks_the_same(linear):
    points = torch.rand(1, 200, 3, generator=torch.Generator().manual_seed(0)) * 60 - 30
    reference = smooth_image(grid_around((120, 120, 120), torch.eye(3).numpy())).sample(points, 4.0)
    other = smooth_image(grid_around((130, 130, 130), linear)).sample(points, 4.0)
    # Levels at 4 mm lie half a voxel apart, and the 2 mm axis is smoothed with fewer points.
    assert (reference - other).abs().max() < 0.05
    assert (reference - other).abs().mean() < 0.01


def test_a_bright_background_becomes_zero():
    """A dark object before a bright background shows the same as its negative before a dark one."""
    dark = torch.zeros(12, 12, 12)
    dark[3:9, 3:9, 3:9] = 0.3 + 0.7 * torch.rand(6, 6, 6, generator=torch.Generator().manual_seed(0))
    bright = image_of(1 - dark).normalized().data[0, 0]
    assert bright[0].abs().max() == bright[:, :, -1].abs().max() == 0
    # Both ends of the range are percentiles of other voxels: the slopes differ, the order does not.
    object_voxels = (slice(3, 9),) * 3
    assert torch.equal(
        bright[object_voxels].flatten().argsort()[:150], dark[object_voxels].flatten().argsort()[:150]
    )
    assert bright[object_voxels].min() > 0.1
    assert image_of(dark).normalized().data[0, 0, 0].max() == 0  # a dark background stays


def test_an_image_that_is_cut_at_two_faces_is_no_bright_background():
    data = torch.zeros(12, 12, 12)
    data[:, 3:9, 3:9] = 1.0  # goes through both faces of the first axis
    shown = image_of(data).normalized().data[0, 0]
    torch.testing.assert_close(shown, data)


def cut(grid, cuts):
    return Image(torch.ones(1, 1, *grid.shape), grid, "part", cuts)


FACES = [(axis, side) for axis in range(3) for side in (0, 1)]


@pytest.mark.parametrize("face", FACES)
def test_the_field_of_view_ends_half_a_voxel_beyond_the_last_centre(linear, face):
    """A voxel reaches half its width around its centre, at either end of an axis."""
    grid = grid_around((6, 7, 8), linear * 2, (5.0, -3, 2))
    axis, side = face
    edge = grid.shape[axis] - 0.5 if side else -0.5
    outwards = 1 if side else -1
    for offset, wanted in ((-0.05, True), (0.05, False), (0.95, False)):
        voxel = torch.tensor([2.0, 3.0, 4.0])
        voxel[axis] = edge + outwards * offset
        matrix = grid.voxel_to_world[0].float()
        point = matrix[:3, :3] @ voxel + matrix[:3, 3]
        known = cut(grid, (face,)).known(point[None, None])
        assert known.shape == (1, 1)
        assert known.item() is wanted
        others = tuple(other for other in FACES if other != face)
        assert cut(grid, others).known(point[None, None]).item()  # only its own face ends it
    assert cut(grid, ()).known(grid.points_world()) is None


@pytest.mark.parametrize("face", FACES)
def test_outward_points_out_of_the_face(linear, face):
    grid = grid_around((6, 7, 8), linear * 2, (5.0, -3, 2))
    image = cut(grid, (face,))
    (direction,) = image.outward()
    torch.testing.assert_close(direction.norm(), torch.ones_like(direction.norm()))
    middle = grid.center_world[0]
    along, against = ((middle + sign * 40 * direction).float()[None, None] for sign in (1, -1))
    assert not image.known(along).item()
    assert image.known(against).item()
    steps = grid.to_voxel((middle + direction).float()[None, None]) - grid.to_voxel(
        middle.float()[None, None]
    )
    across = [abs(steps[0, 0, k].item()) for k in range(3) if k != face[0]]
    assert max(across) < 1e-4  # along the array's axis
    assert cut(grid, (face, (0, 0), (2, 1))).known(along).item() is False


def test_an_image_on_another_device_keeps_every_attribute(linear):
    grid = grid_around((4, 5, 6), linear)
    image = Image(torch.rand(1, 1, 4, 5, 6), grid, "sub-07", ((0, 1), (2, 0)))
    moved = image.to("cpu")
    assert (moved.name, moved.cuts, moved.spacing_mm) == (image.name, image.cuts, image.spacing_mm)
    assert torch.equal(moved.data, image.data)
    assert torch.equal(moved.grid.voxel_to_world, grid.voxel_to_world)
