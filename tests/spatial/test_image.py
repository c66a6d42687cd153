import pytest
import torch
from synthetic import grid_around, smooth_image

from patchmorph.errors import PatchMorphError
from patchmorph.spatial.image import Image


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
