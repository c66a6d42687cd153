"""What a user's mask keeps: any numbers, holes and bites filled, the rim of a brain; and what is doubtful."""

import functools

import pytest
import torch
from scans import GRIDS, SEMI_AXES_MM, BrainAtTheMiddle, changed, distance, distance_mm, rician, scan
from synthetic import AFFINES, grid_around
from torch import Tensor, nn

from patchmorph.errors import PatchMorphError
from patchmorph.images.foreground import find_content
from patchmorph.images.volume import Image, MappedImage
from patchmorph.registration.masks import CLOSING, MIN_BITE, RIM, counted_region

RADIUS_MM = 55.7
"""Of the content of the brain: the unit of the widths below."""
FAINT = 0.08
"""Normalised: voxels up to this at the surface may be background on the grid where masks are compared."""


def mask_of(image: Image, inside: Tensor) -> Image:
    return Image(inside.float(), image.grid, "mask.nii")


def kept(image: Image, mask: Image, network: nn.Module | None = None) -> MappedImage:
    """What a mask without doubts keeps."""
    region = counted_region(image.normalized(), mask, network)
    assert region.doubts == ()
    return region.of(image.normalized())


def test_the_unit_of_the_widths_is_the_radius_of_the_content():
    assert find_content(scan("brain").normalized()).radius_mm == pytest.approx(RADIUS_MM, rel=0.01)
    assert pytest.approx((19.5, 6.7, 3.3), rel=0.02) == tuple(RADIUS_MM * x for x in (CLOSING, RIM, MIN_BITE))


# What is inside


def as_parcellation(inside: Tensor) -> Tensor:
    """Ids from 2 to 2035, as in aparc+aseg: most of them below half of the largest."""
    ids = torch.tensor([2, 3, 10, 17, 41, 42, 251, 1001, 1035, 2002, 2035], dtype=torch.int16)
    place = torch.arange(inside.numel()).reshape(inside.shape) // 7 % len(ids)
    return torch.where(inside, ids[place], 0)


MASKS = {
    "parcellation": as_parcellation,
    "brain 1 and lesion 2": lambda inside: (
        inside.to(torch.uint8) + (inside & (torch.rand(inside.shape) < 0.01))
    ),
    "uint8": lambda inside: 255 * inside.to(torch.uint8),
    "float": lambda inside: 0.6 * inside.float(),
    "probability": lambda inside: inside * torch.linspace(0.01, 1, inside.numel()).reshape(inside.shape),
    "int32": lambda inside: 70000 * inside.to(torch.int32),
    "double": lambda inside: inside.double(),
}


def front_three_quarters(image: Image) -> Tensor:
    return (distance(image) < 1.02) & (image.grid.points_world()[..., 1] > -40)[:, None]


@functools.cache
def front_of_a_brain() -> Tensor:
    image = scan("brain")
    return kept(image, mask_of(image, front_three_quarters(image))).values()


@pytest.mark.parametrize("name", MASKS)
def test_what_is_not_zero_is_inside(name):
    """Whatever the numbers, they keep what 1 keeps: here the front three quarters."""
    torch.manual_seed(0)
    image = scan("brain")
    inside = front_three_quarters(image)
    found = kept(image, Image(MASKS[name](inside), image.grid)).values()
    assert torch.equal(found, front_of_a_brain())
    assert 0.6 < (found > 0.06).sum() / (image.normalized().values() > 0.06).sum() < 0.95


@pytest.mark.parametrize("linear", GRIDS)
def test_a_mask_may_have_another_grid(linear):
    image, other = scan("brain"), grid_around((60, 70, 62), AFFINES[linear] * 3, (2.0, -3, 1))
    coarse = Image(torch.zeros(1, 1, *other.shape), other)
    front = [
        (distance(on) < 1.02) & (on.grid.points_world()[..., 1] > -20)[:, None] for on in (image, coarse)
    ]
    here, there = (kept(image, mask_of(on, part)) for on, part in zip((image, coarse), front, strict=True))
    differs = (here.values() > 0.06) != (there.values() > 0.06)
    assert differs[image.data > 0].float().mean() < 0.04  # a layer of voxels of one tenth of the length
    between = (image.grid.points_world()[..., 1] + 20 + RIM * RADIUS_MM).abs()[:, None] > 8
    assert not differs[between].any()


@pytest.mark.parametrize("linear", ["LIA", "oblique"])
def test_a_good_mask_keeps_all_of_the_brain_and_nothing_far_from_it(linear):
    plain = scan("brain", linear)
    blob = distance_mm(plain, (0.0, 0, -84)) < 7
    image = changed(plain, torch.where(blob, 60.0, plain.data))
    found = kept(image, mask_of(image, distance(image) < 1)).values()
    assert not found[blob].any()
    torch.testing.assert_close(found[~blob], image.normalized().values()[~blob], atol=FAINT, rtol=0)


def test_a_mask_that_keeps_nothing_is_refused():
    image = scan("brain")
    corner = (distance(image) > 1.4) & (image.grid.points_world().sum(-1) > 0)[:, None]
    for inside in (torch.zeros_like(corner), corner):
        with pytest.raises(PatchMorphError, match="mask must keep some of the image, got nothing of brain"):
            counted_region(image.normalized(), mask_of(image, inside), None)
    nan = Image(torch.full_like(image.data, torch.nan), image.grid)
    with pytest.raises(PatchMorphError, match="got nothing"):
        counted_region(image.normalized(), nan, None)


# Holes and bites


@pytest.mark.parametrize(
    ("linear", "center"),
    [
        ("RAS", (20.0, 10.0, 10.0)),
        ("LIA", (-10.0, -30.0, 15.0)),
        ("RAS", (0.0, 66.0, 12.0)),
        ("oblique", (-52.0, 0.0, 10.0)),
    ],
)
def test_a_hole_inside_and_a_bite_at_the_surface_are_filled_from_around(linear, center):
    """A lesion of 12 mm, of any intensity, inside or where the ball reaches beyond the brain."""
    plain = scan("brain", linear)
    lesion = distance_mm(plain, center) < 12
    mask = mask_of(plain, (distance(plain) < 1.03) & (distance_mm(plain, center) >= 14))
    damaged = [
        changed(plain, torch.where(lesion & (plain.data > 0), value, plain.data)) for value in (8.0, 95.0)
    ]
    dark, bright = (kept(image, mask).values() for image in damaged)
    inside = (mask.data > 0) & (distance(plain) < 0.97)
    assert torch.equal(dark[inside], damaged[0].normalized().values()[inside])  # up to the hole
    torch.testing.assert_close(dark, bright, atol=FAINT, rtol=0)
    expected = plain.normalized().values()
    core = (distance_mm(plain, center) < 9) & (distance(plain) < 0.93)
    assert dark[core].min() > 0.15
    assert dark[core].max() < expected.max()
    beside = (distance_mm(plain, center) > 19) & (distance(plain) < 0.97)
    torch.testing.assert_close(dark[beside], expected[beside], atol=0.01, rtol=0)
    assert not dark[distance(plain) > 1.25].any()


def test_in_a_head_a_hole_is_filled_and_a_bite_left_out():
    """What lies beside a mask in a head may be skull as well as brain."""
    head = scan("head")
    network = BrainAtTheMiddle(head)
    centers = (20.0, 10.0, 10.0), (0.0, 66.0, 12.0)
    outside = torch.minimum(*(distance_mm(head, center) for center in centers)) < 12
    found = kept(head, mask_of(head, (distance(head) < 1.02) & ~outside), network).values()
    hole, bite = ((distance_mm(head, center) < 8) & (distance(head) < 0.93) for center in centers)
    assert found[hole].min() > 0.15
    assert not found[bite].any()
    assert not found[distance(head) > 1.1].any()  # the scalp


@pytest.mark.parametrize("linear", ["LIA", "oblique"])
def test_a_thin_gap_in_a_mask_stays_as_the_image_shows_it(linear):
    """As between two hemispheres, or where labels lack a ventricle: neither filled nor set to zero."""
    image = scan("brain", linear)
    gap = (image.grid.points_world()[..., 0] - 10).abs()[:, None] < 0.6 * MIN_BITE * RADIUS_MM
    found = kept(image, mask_of(image, (distance(image) < 1.03) & ~gap)).values()
    torch.testing.assert_close(found, image.normalized().values(), atol=FAINT, rtol=0)


@pytest.mark.parametrize("linear", ["LIA", "oblique"])
def test_a_rim_that_a_mask_misses_stays(linear):
    """Of a width in mm; what lies further out becomes zero."""
    image = scan("brain", linear)
    expected = image.normalized().values()
    tight = mask_of(image, distance(image) < 0.985)  # 4 to 6 mm of tissue are missing
    torch.testing.assert_close(kept(image, tight).values(), expected, atol=FAINT, rtol=0)
    found = kept(image, mask_of(image, distance(image) < 0.87)).values()
    rim = 0.87 + RIM * RADIUS_MM / SEMI_AXES_MM
    inner, outer = (distance(image) < rim.min() - 0.05), (distance(image) > rim.max() + 0.045)
    torch.testing.assert_close(found[inner], expected[inner])
    assert not found[outer].any()
    assert expected[outer].max() > 0.1


def test_a_rim_has_no_noise():
    """Only what is foreground stays around a mask."""
    plain = scan("brain")
    noisy = changed(plain, rician(plain.data, 1.0))
    found = kept(noisy, mask_of(noisy, distance(noisy) < 0.985)).values()
    beyond = (distance(noisy) > 1.09) & (distance(noisy) < 1.14)
    assert noisy.normalized().values()[beyond].max() > 0.01
    assert not found[beyond].any()


def test_a_mask_of_less_than_half_keeps_what_it_covers_and_no_rim():
    """But for its holes."""
    image = scan("brain")
    hole = distance_mm(image, (0.0, 30, -30)) < 9
    low = (distance(image) < 1.03) & (image.grid.points_world()[..., 2] < -15)[:, None]
    region = counted_region(image.normalized(), mask_of(image, low & ~hole), None)
    assert [text[:25] for text in region.doubts] == ["mask mask.nii keeps only "]
    assert torch.equal(region.of(image.normalized()).values() > 0, low & (image.data > 0))


@pytest.mark.parametrize(("above_mm", "has_rim"), [(-4.0, True), (4.0, False)])
def test_a_mask_of_half_of_the_content_has_a_rim(above_mm, has_rim):
    """The middle lies at 0 mm, where voxels of 4 mm meet."""
    image = scan("brain")
    half = mask_of(image, (distance(image) < 1.1) & (image.grid.points_world()[..., 1] > above_mm)[:, None])
    region = counted_region(image.normalized(), half, None)
    assert bool(region.doubts) is not has_rim
    beside = (image.grid.points_world()[..., 1] - above_mm + 2).abs()[:, None] < 1  # first layer outside
    assert region.of(image.normalized()).values()[beside & (distance(image) < 0.7)].ne(0).all() == has_rim


# Doubts


def test_a_mask_of_the_brain_in_a_head_is_no_doubt():
    """It keeps a third of what the image shows, but all of its brain."""
    head = scan("head")
    network = BrainAtTheMiddle(head)
    tissue = kept(head, mask_of(head, distance(head) < 1), network).values()
    whole = head.normalized().values()
    assert 0.2 < (tissue > 0.06).sum() / (whole > 0.06).sum() < 0.6
    assert torch.equal(tissue[distance(head) < 0.9], whole[distance(head) < 0.9])
    without = counted_region(head.normalized(), mask_of(head, distance(head) < 1), None)
    assert len(without.doubts) == 1


@pytest.mark.parametrize("kind", ["brain", "head"])
def test_a_mask_of_a_part_of_the_brain_is_one_doubt(kind):
    image = scan(kind)
    network = BrainAtTheMiddle(image) if kind == "head" else None
    part = mask_of(image, (distance(image) < 1) & (image.grid.points_world()[..., 0] > 30)[:, None])
    region = counted_region(image.normalized(), part, network)
    (doubt,) = region.doubts
    assert doubt.startswith("mask mask.nii keeps only ")
    assert doubt.endswith(" % of the content")
    whole = (image.normalized().values() > 0.06) & (distance(image) < 1.1)
    percent = 100 * (whole & (part.data > 0)).sum() / whole.sum()
    assert float(doubt.split()[4]) == pytest.approx(float(percent), abs=1.5)  # on another grid


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.float32])
def test_negative_numbers_are_inside_and_one_doubt(dtype):
    """As 255 of uint8 that was read as int8."""
    image = scan("brain")
    inside = distance(image) < 1.03
    region = counted_region(image.normalized(), Image(-inside.to(dtype), image.grid, "mask.nii"), None)
    assert region.doubts == ("mask mask.nii has negative values, which count as inside",)
    torch.testing.assert_close(
        region.of(image.normalized()).values(), kept(image, mask_of(image, inside)).values()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_is_outside_and_one_doubt(dtype):
    image = scan("brain")
    inside = distance(image) < 1.03
    mask = Image(torch.where(inside, 1.0, torch.nan).to(dtype), image.grid, "mask.nii")
    region = counted_region(image.normalized(), mask, None)
    assert region.doubts == ("mask mask.nii has NaN, which counts as outside",)
    torch.testing.assert_close(
        region.of(image.normalized()).values(), kept(image, mask_of(image, inside)).values()
    )


def test_a_mask_may_be_doubtful_in_every_way():
    image = scan("brain")
    part = (distance(image) < 1) & (image.grid.points_world()[..., 0] > 30)[:, None]
    mask = Image(torch.where(part, -1.0, torch.nan), image.grid, "mask.nii")
    doubts = counted_region(image.normalized(), mask, None).doubts
    assert [doubt.split()[2] + " " + doubt.split()[3] for doubt in doubts] == [
        "has NaN,",
        "has negative",
        "keeps only",
    ]
