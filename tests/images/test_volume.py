import pytest
import torch
from synthetic import AFFINES, grid_around, smooth_image

from patchmorph.errors import PatchMorphError
from patchmorph.images.intensity import Window
from patchmorph.images.volume import Image
from patchmorph.spatial.affine import apply_affine
from patchmorph.spatial.grid import Grid, VoxelBox
from patchmorph.spatial.sampling import sample_linear


def image_of(data):
    return Image(data[None, None], grid_around(tuple(data.shape), torch.eye(3).numpy()), "sub-01.nii.gz")


def test_normalizing_maps_the_range_to_zero_and_one():
    image = image_of(torch.linspace(-50, 950, 1000).reshape(10, 10, 10)).normalized()
    assert image.values().min() == 0
    assert image.values().max() == 1
    # From the first percentile, 10 above the minimum, to the 99.8th of the rest, 988 above that.
    assert image.values().median().item() == pytest.approx((499 - 10) / 988, abs=2e-3)


def test_normalizing_does_not_depend_on_gain_and_offset():
    data = torch.rand(8, 9, 10, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        image_of(data).normalized().values(), image_of(data * 321 - 40).normalized().values()
    )


def test_a_few_voxels_below_the_background_do_not_lift_it():
    data = torch.zeros(20, 20, 20)
    data[5:15, 5:15, 5:15] = torch.rand(10, 10, 10, generator=torch.Generator().manual_seed(0)) + 0.5
    clean = image_of(data.clone()).normalized().values()
    data[0, 0, :5] = -0.5
    torch.testing.assert_close(image_of(data).normalized().values(), clean)


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
    bright = image_of(1 - dark).normalized().values()[0, 0]
    assert bright[0].abs().max() == bright[:, :, -1].abs().max() == 0
    # Both ends of the range are percentiles of other voxels: the slopes differ, the order does not.
    object_voxels = (slice(3, 9),) * 3
    assert torch.equal(
        bright[object_voxels].flatten().argsort()[:150], dark[object_voxels].flatten().argsort()[:150]
    )
    assert bright[object_voxels].min() > 0.1
    assert image_of(dark).normalized().values()[0, 0, 0].max() == 0  # a dark background stays


def test_an_image_that_is_cut_at_two_faces_is_no_bright_background():
    data = torch.zeros(12, 12, 12)
    data[:, 3:9, 3:9] = 1.0  # goes through both faces of the first axis
    shown = image_of(data).normalized().values()[0, 0]
    torch.testing.assert_close(shown, data)


FACES = [(axis, side) for axis in range(3) for side in (0, 1)]


def truncated(grid, faces):
    return Image(torch.ones(1, 1, *grid.shape), grid, "part", faces)


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
        inside = truncated(grid, (face,)).in_field_of_view(point[None, None])
        assert inside.shape == (1, 1)
        assert inside.item() is wanted
        others = tuple(other for other in FACES if other != face)
        assert truncated(grid, others).in_field_of_view(point[None, None]).item()  # only its own face ends it
    assert truncated(grid, ()).in_field_of_view(grid.points_world()) is None


@pytest.mark.parametrize("face", FACES)
def test_the_normal_of_a_truncated_face_points_outwards(linear, face):
    grid = grid_around((6, 7, 8), linear * 2, (5.0, -3, 2))
    image = truncated(grid, (face,))
    (direction,) = image.truncation_normals()
    torch.testing.assert_close(direction.norm(), torch.ones_like(direction.norm()))
    middle = grid.center_world[0]
    along, against = ((middle + sign * 40 * direction).float()[None, None] for sign in (1, -1))
    assert not image.in_field_of_view(along).item()
    assert image.in_field_of_view(against).item()
    steps = grid.to_voxel((middle + direction).float()[None, None]) - grid.to_voxel(
        middle.float()[None, None]
    )
    across = [abs(steps[0, 0, k].item()) for k in range(3) if k != face[0]]
    assert max(across) < 1e-4  # along the array's axis
    assert truncated(grid, (face, (0, 0), (2, 1))).in_field_of_view(along).item() is False


def textured(grid, faces, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return Image((torch.rand(1, 1, *grid.shape, generator=generator) * 200).to(dtype), grid, "part", faces)


def views(image):
    """Levels and mapped views of an image, and views of views."""
    return {
        "level": image.level(5.0),
        "level of a level": image.level(5.0).level(8.0),
        "normalized": image.normalized(),
        "level of normalized": image.normalized().level(5.0),
        "normalized level": image.level(5.0).normalized(),
        "mapped": image.mapped(Window(10.0, 100.0)),
        "other device": image.to("cpu"),
        "level on another device": image.level(5.0).to("cpu"),
    }


@pytest.mark.parametrize("faces", [(), ((0, 1),), ((2, 0), (1, 1))])
def test_levels_and_views_keep_the_field_of_view_and_the_truncated_faces(linear, faces):
    """A level's grid is larger than the image's, up to a voxel: its own faces are not those of the image."""
    grid = grid_around((13, 14, 15), linear * 2, (5.0, -3, 2))
    image = textured(grid, faces)
    generator = torch.Generator().manual_seed(1)
    voxel = torch.rand(1, 2000, 3, generator=generator) * (torch.tensor(grid.shape) + 4) - 2.5
    points = apply_affine(grid.voxel_to_world, voxel.double()).float()
    expected = image.in_field_of_view(points)
    for name, view in views(image).items():
        found = view.in_field_of_view(points)
        assert view.truncated_faces == faces, name
        if expected is None:
            assert found is None, name
        else:
            assert 0.02 < expected.float().mean() < 0.98
            assert torch.equal(found, expected), name
        assert len(view.truncation_normals()) == len(faces)
        for one, other in zip(view.truncation_normals(), image.truncation_normals(), strict=True):
            assert torch.equal(one, other), name


def test_truncated_faces_of_a_view_can_be_replaced_and_the_view_stays():
    image = textured(grid_around((13, 14, 15), AFFINES["LIA"]), ((0, 0),)).normalized()
    other = image.with_truncated_faces(((1, 1), (2, 0)))
    assert other.truncated_faces == ((1, 1), (2, 0))
    assert image.truncated_faces == ((0, 0),)
    assert torch.equal(other.values(), image.values())
    assert other.level(3.0).truncated_faces == ((1, 1), (2, 0))


def test_an_image_on_another_device_keeps_every_attribute(linear):
    grid, whole = grid_around((4, 5, 6), linear), grid_around((9, 9, 9), linear)
    image = Image(torch.rand(1, 1, 4, 5, 6), grid, "sub-07", ((0, 1), (2, 0)), whole)
    moved = image.to("cpu")
    assert (moved.name, moved.truncated_faces) == (image.name, image.truncated_faces)
    assert (moved.spacing_mm, moved.channels, moved.dtype) == (image.spacing_mm, 1, torch.float32)
    assert torch.equal(moved.data, image.data)
    assert moved.grid.equals(grid)
    assert moved.field_of_view.equals(whole)


@pytest.mark.parametrize("kind", ["memory", "mapped"])
def test_boxes_blocks_and_faces_are_parts_of_the_whole(kind):
    grid = grid_around((70, 5, 66), AFFINES["LPS"])
    image = textured(grid, (), torch.int16)
    whole = image.data
    if kind == "mapped":
        image = image.mapped(Window(20.0, 150.0))
        whole = ((whole.float() - 20) / 130).clamp(0, 1)
    torch.testing.assert_close(image.values(), whole)
    assert image.dtype == image.values().dtype == whole.dtype
    box = VoxelBox((3, 1, 60), (40, 4, 66))
    torch.testing.assert_close(image.read(box), whole[:, :, 3:40, 1:4, 60:])
    assembled = torch.full_like(whole, -1)
    for block_box, values in image.blocks():
        assert assembled[(..., *block_box.slices)].max() == -1  # each voxel once
        assembled[(..., *block_box.slices)] = values
    torch.testing.assert_close(assembled, whole)
    for axis, side in FACES:
        torch.testing.assert_close(image.face((axis, side)), whole.select(axis + 2, -side).flatten())


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_the_voxels_around_points_are_enough_to_interpolate(linear, dtype):
    """Also where some of the points, or all of them, lie outside."""
    grid = grid_around((24, 25, 26), linear * 2, (5.0, -3, 2))
    image = textured(grid, (), dtype)
    generator = torch.Generator().manual_seed(1)
    corner = apply_affine(grid.voxel_to_world, torch.tensor([[[23.0, 2, 20]]]))
    for reach, center in ((5.0, grid.center_world[:, None].float()), (12.0, corner), (9.0, corner + 500)):
        points = center + (torch.rand(1, 300, 3, generator=generator) * 2 - 1) * reach
        values, local = image.around(points)
        assert values.shape[2:] == local.shape
        if dtype == torch.uint8:
            assert values.dtype == dtype
            assert values.numel() < image.data.numel()
        expected = sample_linear(image.data.float(), grid.to_voxel(points), "zeros")
        found = sample_linear(values.float(), local.to_voxel(points), "zeros")
        torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)  # steps of 200 times 1e-5 voxels
        torch.testing.assert_close(image.sample(points, 1.0), expected, atol=5e-3, rtol=0)


def test_the_intensity_range_is_that_of_normalization():
    data = torch.linspace(-50, 950, 1001)[1:].reshape(10, 10, 10)  # −49, −48, … 950
    # The tenth smallest voxel, and the second largest (0.002 of the 990 above).
    assert image_of(data).intensity_range() == (-40.0, 949.0)
    shown = image_of(data).normalized().values()
    torch.testing.assert_close(shown, ((data + 40) / 989).clamp(0, 1)[None, None])


def test_normalization_and_levels_are_computed_once():
    image = smooth_image(grid_around((20, 21, 22), AFFINES["RAS"] * 8))
    assert image.normalized() is image.normalized()
    assert image.level(20.0) is image.level(20.0)
    assert image.normalized().level(20.0) is image.normalized().level(20.0)


@pytest.mark.parametrize("spacing", [1.0, 6.0])
def test_an_image_is_zero_outside_at_any_resolution(linear, spacing):
    grid = grid_around((24, 25, 26), linear * 2)
    image = Image(torch.ones(1, 1, *grid.shape), grid)
    center = grid.center_world.float()[:, None]
    directions = torch.cat([torch.eye(3), -torch.eye(3)])[None] * 200
    assert image.sample(center + directions, spacing).abs().max() == 0
    torch.testing.assert_close(image.sample(center, spacing), torch.ones(1, 1, 1))


@pytest.mark.parametrize("spacing_mm", [2.0, 5.0])
def test_a_grid_of_points_is_sampled_as_its_points_are(linear, spacing_mm):
    """Parallel to the array, oblique to it and mirrored; partly and wholly outside."""
    image = smooth_image(grid_around((40, 34, 38), linear * 2)).normalized()
    center = image.grid.center_world
    grids = {
        "along the world": Grid.centered((20, 21, 22), 1.7, center),
        "beyond a face": Grid.centered((20, 21, 22), 1.7, center + 30),
        "outside": Grid.centered((5, 4, 6), 1.7, center + 300),
        "of the image": grid_around((15, 16, 17), -linear * 1.3, (3.0, 2, 1)),
        "several": Grid.centered((6, 7, 8), 1.7, center.repeat(2, 1)),
    }
    for name, grid in grids.items():
        found = image.sample_grid(grid, spacing_mm)
        expected = image.sample(grid.points_world(), spacing_mm)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
        assert (expected.max() > 0) == (name != "outside")
