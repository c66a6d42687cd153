"""A view with mapped intensities shows what a mapped copy of the volume would show."""

from itertools import product

import pytest
import torch
from synthetic import grid_around, smooth_image

from patchmorph.images.intensity import Curve, Masked, Window
from patchmorph.images.volume import Image, MappedImage
from patchmorph.spatial.affine import apply_affine
from patchmorph.spatial.grid import VoxelBox

KNOTS = torch.tensor([0.2, 0.9, 0.1, 0.6])


def brain(linear, dtype):
    image = smooth_image(grid_around((34, 40, 30), linear * 5, (2.0, -3, 4)))
    return Image((image.data * 250).to(dtype), image.grid, "brain", ((1, 0),))


def mask_map(linear, shift=(20.0, 0, 0)):
    """A mask on another grid, which covers a part of the brain."""
    mask = smooth_image(grid_around((30, 30, 30), linear.T * 7, shift))
    return Masked(Image((mask.data > 0.3).float(), mask.grid), 0.5, 9.0)


def points_in_and_around(grid):
    generator = torch.Generator().manual_seed(0)
    voxel = torch.rand(1, 900, 3, generator=generator) * (torch.tensor(grid.shape) + 8) - 4
    return apply_affine(grid.voxel_to_world, voxel.double()).float()


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        *(("window", torch.uint8), ("inverted", torch.int16), ("mask", torch.float32), ("mask", torch.uint8)),
        *(("curve", torch.int16), ("all", torch.float32), ("all", torch.int16)),
    ],
)
def test_a_view_samples_as_the_mapped_copy(linear, dtype, kind):
    image = brain(linear, dtype)
    window, mask, curve = Window(12.0, 180.0), mask_map(linear), Curve(KNOTS, 0.05)
    maps = {
        "window": (window,),
        "inverted": (Window(12.0, 180.0, inverted=True),),
        "mask": (mask,),
        "curve": (window, curve),
        "all": (window, mask, curve),
    }[kind]
    # The copy, each map over the whole array at once.
    copied = image.data.float()
    for intensity_map in maps:
        copied = intensity_map(copied, image.grid)
    copy, view = Image(copied, image.grid), image.mapped(*maps)
    assert view.source is image
    assert torch.equal(view.values(), copied)
    box = VoxelBox((11, 7, 13), (30, 33, 24))
    torch.testing.assert_close(view.read(box), copied[(..., *box.slices)])
    everywhere = points_in_and_around(image.grid)
    nearby = points_in_and_around(image.grid.crop((14, 16, 12), (6, 5, 8)))
    for points, spacing_mm in product((everywhere, nearby), (1.0, 5.0, 8.5, 20.0)):
        found, expected = view.sample(points, spacing_mm), copy.sample(points, spacing_mm)
        assert expected.abs().max() > 0.05
        # Coordinates of a crop are rounded otherwise: 1e-5 voxels of steps of at most 250.
        torch.testing.assert_close(found, expected, atol=3e-3 if kind == "mask" else 3e-5, rtol=0)
        assert view.level(spacing_mm).grid.equals(copy.level(spacing_mm).grid)


def test_a_mask_map_is_zero_exactly_outside_of_the_mask(linear):
    image, mask = brain(linear, torch.float32), mask_map(linear)
    inside = mask.mask.sample(image.grid.points_world(), 9.0) > 0.5
    assert 0.1 < inside.float().mean() < 0.9
    found = image.mapped(mask).values()
    assert torch.equal(found, torch.where(inside, image.data, torch.zeros(())))


def test_a_view_of_a_view_applies_both_maps_in_turn(linear):
    image = brain(linear, torch.uint8)
    first, second = Window(12.0, 180.0), Curve(KNOTS, 0.05)
    twice, together = image.mapped(first).mapped(second), image.mapped(first, second)
    assert isinstance(twice, MappedImage)
    assert torch.equal(twice.values(), together.values())
    assert not torch.equal(together.values(), image.mapped(first).values())
    points = points_in_and_around(image.grid)
    torch.testing.assert_close(twice.sample(points, 8.5), together.sample(points, 8.5))


def test_a_normalized_view_samples_as_the_normalized_copy(linear):
    image = brain(linear, torch.int16)
    view = image.normalized()
    low, high = image.intensity_range()
    copy = Image(((image.data - low) / (high - low)).clamp(0, 1), image.grid)
    points = points_in_and_around(image.grid)
    for spacing_mm in (5.0, 11.0):
        torch.testing.assert_close(
            view.sample(points, spacing_mm), copy.sample(points, spacing_mm), atol=3e-5, rtol=0
        )
