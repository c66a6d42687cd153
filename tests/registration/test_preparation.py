"""What of an image is registered: what scanners and tools add to it changes nothing."""

import functools
import math

import pytest
import torch
from scans import (
    GRIDS,
    WHITE,
    BrainAtTheMiddle,
    changed,
    distance,
    distance_mm,
    implants,
    outside_cylinder,
    scan,
    slab,
    t2,
    tube,
    vessels,
)
from synthetic import AFFINES, grid_around, smooth_image
from torch import Tensor, nn

from patchmorph.errors import PatchMorphError
from patchmorph.images.canonical import canonical
from patchmorph.images.foreground import FOREGROUND
from patchmorph.images.volume import Image
from patchmorph.registration.pair import PreparedImage
from patchmorph.registration.preparation import (
    DEFECTS,
    FRAGMENTS,
    IGNORED,
    STRAY,
    Selection,
    prepare_image,
    prepare_pair,
)
from patchmorph.spatial.grid import Grid

MASK, HEAD = "outside of its mask left out", "the brain was found in a head, the rest left out"


@functools.cache
def network_for_heads() -> nn.Module:
    return BrainAtTheMiddle(scan("head"))


@functools.cache
def network_for_brains() -> nn.Module:
    """Finds too little for a brain in a head."""
    return BrainAtTheMiddle(scan("brain"), size=0.2)


def prepared(image: Image, kind: str, **selection) -> PreparedImage:
    """As a registration does it; brains without the network that would tell that they are no heads."""
    return prepare_image(image, Selection(**selection), network_for_heads() if kind == "head" else None)


@functools.cache
def prepared_plain(kind: str, linear: str = "RAS") -> PreparedImage:
    return prepared(scan(kind, linear), kind)


def with_bright(kind: str, linear: str, where: Tensor, times: float) -> Image:
    plain = scan(kind, linear)
    return changed(plain, torch.where(where, times * WHITE, plain.data))


def assert_same(found: PreparedImage, kind: str, linear: str, apart: Tensor, tolerance: float = 0.01) -> None:
    """The tissue, but for the voxels ``apart``, and the content are those of the scan as it is."""
    expected = prepared_plain(kind, linear)
    values, before = found.image.values(), expected.image.values()
    # Fainter voxels at the surface, and those at the rim of the brain's mask, may be taken for background.
    tissue = (before > 0.1) & (distance(scan(kind, linear)) < 0.97) & ~apart
    torch.testing.assert_close(values[tissue], before[tissue], atol=tolerance, rtol=0)
    assert found.content.radius_mm == pytest.approx(expected.content.radius_mm, rel=0.02)
    voxel_mm = 4.5  # of the level in which the content is measured
    torch.testing.assert_close(found.content.box_world, expected.content.box_world, atol=voxel_mm, rtol=0)
    torch.testing.assert_close(found.content.center_world, expected.content.center_world, atol=0.5, rtol=0)
    assert found.image.truncated_faces == expected.image.truncated_faces
    assert found.doubts == ()


def remarks(image: PreparedImage) -> tuple[str, ...]:
    """The notes without the name of the image."""
    return tuple(note.removeprefix(f"{image.original.name}: ") for note in image.notes)


RESCALED = 0.08
"""The scale of a brain in a head is that of its tissue, after clamping to the window of the whole head."""


@pytest.mark.parametrize(
    ("kind", "linear", "times", "fraction"),
    [
        ("brain", "RAS", 1.5, 0.02),
        ("brain", "RAS", 2, 0.02),
        ("brain", "LIA", 2, 0.005),
        ("brain", "oblique", 2, 0.02),
        ("brain", "LIA", 4, 0.02),
        ("brain", "RAS", 4, 0.005),
        ("brain", "RAS", 12, 0.02),
        ("brain", "oblique", 24, 0.02),
        ("head", "RAS", 1.5, 0.02),
        ("head", "LIA", 2, 0.005),
        ("head", "RAS", 4, 0.02),
        ("head", "oblique", 24, 0.02),
    ],
)
def test_a_marker_beside_changes_nothing(kind, linear, times, fraction):
    """It becomes background, and the tissue stays what it was."""
    where = tube(scan(kind, linear), fraction)
    found = prepared(with_bright(kind, linear, where, times), kind)
    assert_same(found, kind, linear, where, RESCALED if kind == "head" else 0.01)
    assert found.image.values()[where].max() < FOREGROUND
    assert set(remarks(found)) <= {STRAY, FRAGMENTS, HEAD}
    assert kind == "head" or (STRAY if times > 3 else FRAGMENTS) in remarks(found)


@pytest.mark.parametrize(("kind", "times"), [("brain", 2), ("head", 24)])
def test_with_a_mask_a_marker_outside_changes_nothing(kind, times):
    plain = scan(kind)
    mask = Image((distance(plain) < 1.02).float(), plain.grid)
    expected = prepared(plain, kind, mask=mask)
    found = prepared(with_bright(kind, "RAS", tube(plain, 0.02), times), kind, mask=mask)
    tissue = distance(plain) < 1.0
    values, before = (image.image.values() for image in (found, expected))
    tolerance = RESCALED if kind == "head" else 0.01
    torch.testing.assert_close(values[tissue], before[tissue], atol=tolerance, rtol=0)
    assert not values[distance(plain) > 1.2].any()
    torch.testing.assert_close(found.content.box_world, expected.content.box_world, atol=4.5, rtol=0)
    assert MASK in remarks(found)
    assert found.doubts == ()


@pytest.mark.parametrize(
    ("kind", "linear", "times", "inside"),
    [
        ("brain", "RAS", 3, "implants"),
        ("brain", "oblique", 4, "implants"),
        ("brain", "LIA", 24, "implants"),
        ("brain", "RAS", 4, "vessels"),
        ("brain", "LIA", 12, "vessels"),
        ("head", "RAS", 3, "implants"),
        ("head", "LIA", 12, "vessels"),
    ],
)
def test_bright_voxels_inside_are_filled_from_around(kind, linear, times, inside):
    plain = scan(kind, linear)
    where = implants(plain, 0.012) if inside == "implants" else vessels(plain)
    found = prepared(with_bright(kind, linear, where, times), kind)
    assert_same(found, kind, linear, where)
    core = where & (distance(plain) < 0.85)
    values, before = (image.image.values()[core] for image in (found, prepared_plain(kind, linear)))
    assert values.min() > 0.1
    assert values.max() < 1
    assert (values - before).abs().mean() < 0.16  # the spread of tissue within 6 mm
    assert STRAY in remarks(found)


@pytest.mark.parametrize("linear", GRIDS)
def test_bright_fluid_is_tissue_in_a_brain(linear):
    """As T2 shows it: 2.2 times as bright as white matter, in 15 % of the content."""
    plain = scan("brain", linear)
    found = prepare_image(changed(plain, t2(plain)), Selection(), network_for_brains())
    assert found.notes == ()
    assert (found.image.values() == 1).sum() > 0.14 * (plain.data > 0).sum()


@pytest.mark.parametrize("linear", GRIDS)
def test_a_bright_rim_is_tissue_in_a_brain(linear):
    """As T1 has it in inverted intensities."""
    plain = scan("brain", linear)
    found = prepare_image(
        changed(plain, torch.where(plain.data > 0, 1.1 * WHITE - plain.data, 0)),
        Selection(),
        network_for_brains(),
    )
    assert found.notes == ()


def test_what_may_be_fat_in_a_head_is_stray_where_a_brain_is_all_there_is():
    """Twice as bright as white matter, in few voxels."""
    marked = with_bright("brain", "RAS", vessels(scan("brain")), 2.05)
    assert remarks(prepare_image(marked, Selection(), network_for_brains())) == (STRAY,)
    assert prepare_image(marked).notes == ()  # no network rules out that this is a head


@pytest.mark.parametrize("times", [1.0, 1.8, 2.5])
def test_the_scale_of_a_brain_in_a_head_is_that_of_the_brain(times):
    """Whatever the fat beside it shows."""
    plain = scan("head")
    scalp = (distance(plain) > 1.12) & (plain.data > 20)
    found = prepared(changed(plain, torch.where(scalp, times * plain.data, plain.data)), "head")
    assert remarks(found) == (HEAD,)
    assert_same(found, "head", "RAS", scalp, RESCALED)


@pytest.mark.parametrize("kind", ["brain", "head"])
@pytest.mark.parametrize(("value", "linear"), [(-3024.0, "RAS"), (-32768.0, "oblique"), (32767.0, "LIA")])
def test_padding_changes_nothing(kind, value, linear):
    plain = scan(kind, linear)
    where = outside_cylinder(plain)
    found = prepared(changed(plain, torch.where(where, value, plain.data)), kind)
    assert_same(found, kind, linear, where, 0.015)
    assert not found.image.values()[where].any()


@pytest.mark.parametrize("kind", ["brain", "head"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_dark_slab_at_a_face_changes_nothing(kind, axis):
    where = slab(scan(kind), axis, 1 + axis)
    found = prepared(changed(scan(kind), torch.where(where, -9999.0, scan(kind).data)), kind)
    assert_same(found, kind, "RAS", where, 0.015)
    assert not found.image.values()[where].any()


@pytest.mark.parametrize("value", [math.nan, -5.0, 0.6 * WHITE])
def test_the_background_that_is_named_shows_nothing(value):
    """For both images."""
    images = [scan("brain", linear) for linear in ("RAS", "LIA")]
    padded = (changed(image, torch.where(outside_cylinder(image), value, image.data)) for image in images)
    pair = prepare_pair(*(image.with_background(value) for image in padded))
    for found, linear in ((pair.fixed, "RAS"), (pair.moving, "LIA")):
        expected = canonical(scan("brain", linear)).normalized()  # a pair is compared in one order
        torch.testing.assert_close(found.image.values(), expected.values(), atol=0.01, rtol=0)
        assert found.notes == ()
        assert found.original.grid.orientation == linear


def test_nan_is_refused_with_the_remedy_unless_a_background_is_named():
    plain = scan("brain")
    padded = changed(plain, torch.where(outside_cylinder(plain), torch.nan, plain.data))
    message = r"must be finite everywhere, got 32832 NaN .* in brain \(--background nan: "
    with pytest.raises(PatchMorphError, match=message):
        prepared(padded, "brain")
    for background in (math.nan, -5.0):
        found = prepared(padded.with_background(background), "brain").image.values()
        torch.testing.assert_close(found, prepared_plain("brain").image.values(), atol=0.01, rtol=0)


@pytest.mark.parametrize("kind", ["brain", "head"])
@pytest.mark.parametrize(
    ("value", "linear", "inside"),
    [(-3024.0, "RAS", "implants"), (-9999.0, "LIA", "vessels"), (math.nan, "oblique", "implants")],
)
def test_dark_voxels_inside_are_filled_and_those_around_are_not(kind, value, linear, inside):
    """Beside padding of the same value."""
    plain = scan(kind, linear)
    where = implants(plain, 0.012) if inside == "implants" else vessels(plain)
    outside = outside_cylinder(plain)
    image = changed(plain, torch.where(where | outside, value, plain.data))
    found = prepared(image.with_background(math.nan) if math.isnan(value) else image, kind)
    assert_same(found, kind, linear, where | outside, 0.015)
    assert DEFECTS in remarks(found)
    assert not found.image.values()[outside].any()
    core = where & (distance(plain) < 0.85)
    values, before = (each.image.values()[core] for each in (found, prepared_plain(kind, linear)))
    assert values.min() > 0.1
    assert (values - before).abs().mean() < 0.16


@pytest.mark.parametrize("linear", GRIDS)
def test_standard_scores_in_zeros_are_noted(linear):
    plain, expected = scan("brain", linear), prepared_plain("brain", linear)
    tissue = plain.data > 0
    scores = (plain.data - plain.data[tissue].mean()) / plain.data[tissue].std()
    found = prepared(changed(plain, torch.where(tissue, scores, 0)), "brain")
    assert remarks(found) == ("intensity 0 was taken for background",)
    assert found.content.radius_mm == pytest.approx(expected.content.radius_mm, rel=0.02)


# What is ignored


@pytest.mark.parametrize(("linear", "lesion_value"), [*zip(GRIDS, (0.0, 60.0, 100.0), strict=True)])
def test_what_is_ignored_is_filled_whatever_it_shows(linear, lesion_value):
    """With a mask on another grid, of any numbers."""
    plain, center = scan("brain"), (24.0, -10.0, 12.0)
    where = distance_mm(plain, center) < 11
    grid = grid_around((40, 40, 40), AFFINES[linear] * 2, center)
    ignored = Image(torch.zeros(1, 1, *grid.shape), grid, "lesion.nii")
    ignored = Image(1007 * (distance_mm(ignored, center) < 15).to(torch.int16), grid, "lesion.nii")
    found = prepared(changed(plain, torch.where(where, lesion_value, plain.data)), "brain", ignored=ignored)
    expected = prepared(plain, "brain", ignored=ignored)
    torch.testing.assert_close(found.image.values(), expected.image.values(), atol=0.01, rtol=0)
    assert remarks(found) == (IGNORED,)
    beyond = distance_mm(plain, center) > 19
    plainly = prepared_plain("brain").image.values()
    torch.testing.assert_close(found.image.values()[beyond], plainly[beyond], atol=0.003, rtol=0)
    assert (found.image.values()[where] > 0.2).all()


def test_what_is_ignored_is_left_out_of_the_comparison_beside_a_mask_too():
    plain, center = scan("brain"), (24.0, -10.0, 12.0)
    lesion = distance_mm(plain, center) < 11
    selection = {
        "mask": Image((distance(plain) < 1.02).float(), plain.grid),
        "ignored": Image((distance_mm(plain, center) < 15).float(), plain.grid),
    }
    one, other = (
        prepared(changed(plain, torch.where(lesion, value, plain.data)), "brain", **selection)
        for value in (5, 95)
    )
    torch.testing.assert_close(one.image.values(), other.image.values(), atol=0.02, rtol=0)
    assert remarks(one) == (IGNORED, MASK)


def turned(image: Image, order: tuple[int, int, int], flips: tuple[int, ...], shift_mm: float = 0.0) -> Image:
    """The same image with its axes in another order and direction, and a header off by ``shift_mm``."""
    matrix = image.grid.voxel_to_world.clone()
    matrix[:, :3, :3] = matrix[:, :3, list(order)]
    data = image.data.permute(0, 1, *(2 + axis for axis in order))
    for axis in flips:
        matrix[:, :3, 3] += matrix[:, :3, axis] * (data.shape[2 + axis] - 1)
        matrix[:, :3, axis] *= -1
    matrix[:, :3, 3] += shift_mm
    matrix[:, :3, :3] += shift_mm / 1000
    return Image(data.flip([2 + axis for axis in flips]), Grid(tuple(data.shape[2:]), matrix), image.name)


STORED = [((0, 1, 2), (2,)), ((2, 0, 1), (0,)), ((1, 0, 2), (1, 2))]
"""Orders of the axes, and those that are reversed."""


@pytest.mark.parametrize(("linear", "stored"), [*zip(AFFINES, 2 * STORED, strict=True)])
def test_an_image_is_the_same_bit_for_bit_in_any_storage_order(linear, stored):
    """With its masks, and with a header whose last digits differ."""
    image = Image(
        scan("brain").data, grid_around(scan("brain").grid.shape, AFFINES[linear] * 4, (5.0, -7, 3)), "brain"
    )
    mask = Image((distance_mm(image, (5.0, -7, 3)) < 45).float(), image.grid)
    ignored = Image((distance_mm(image, (25.0, 0, 0)) < 12).float(), image.grid)
    other = smooth_image(grid_around((12, 14, 12), AFFINES["RAS"] * 16))

    def prepared_in(order: tuple[int, int, int], flips: tuple[int, ...], shift_mm: float) -> PreparedImage:
        one, *masks = (turned(each, order, flips, shift_mm) for each in (image, mask, ignored))
        return prepare_pair(one, other, None, (Selection(*masks), Selection())).fixed

    expected, found = prepared_in((0, 1, 2), (), 0.0), prepared_in(*stored, 3e-7)
    assert torch.equal(found.image.values(), expected.image.values())
    assert found.image.grid.equals(expected.image.grid)
    assert torch.equal(found.content.box_world, expected.content.box_world)
    assert torch.equal(found.content.center_world, expected.content.center_world)


def test_each_image_has_its_own_selection():
    images = scan("brain"), scan("brain", "LIA")
    ignored = [Image((distance_mm(image, (20.0, 0, 0)) < 12).float(), image.grid) for image in images]
    for side in (0, 1):
        selections = [Selection(), Selection()]
        selections[side] = Selection(ignored=ignored[side])
        pair = prepare_pair(*images, None, tuple(selections))
        found = (pair.fixed, pair.moving)
        assert [remarks(image) for image in found] == [(), (IGNORED,)] if side else [(IGNORED,), ()]
        assert pair.notes == found[side].notes


# Notes and doubts


def test_notes_and_doubts_of_all_that_was_read_are_those_of_the_image():
    plain = scan("brain")

    def noted(name: str, data: Tensor) -> Image:
        return Image(data, plain.grid, name, notes=(f"{name}: note",), doubts=(f"{name}: doubt",))

    part = distance(plain).lt(1) & (plain.grid.points_world()[..., 0] > 30)[:, None]
    mask, ignored = noted("mask.nii", -part.float()), noted("lesion.nii", (distance(plain) < 0.1).float())
    found = prepared(noted("t1.nii", plain.data), "brain", mask=mask, ignored=ignored)
    names = ("t1.nii", "mask.nii", "lesion.nii")
    assert found.notes[:3] == tuple(f"{name}: note" for name in names)
    assert found.notes[3:5] == (f"t1.nii: {IGNORED}", f"t1.nii: {MASK}")
    assert found.doubts[:3] == tuple(f"{name}: doubt" for name in names)
    assert found.doubts[3:] == (
        "t1.nii: mask mask.nii has negative values, which count as inside",
        f"t1.nii: mask mask.nii keeps only {found.doubts[4].split()[5]} % of the content",
    )


def test_clean_images_have_neither_notes_nor_doubts():
    for linear in GRIDS:
        found = prepared_plain("brain", linear)
        assert (found.notes, found.doubts) == ((), ())
        assert torch.equal(found.image.values(), scan("brain", linear).normalized().values())
        head = prepared_plain("head", linear)
        assert (remarks(head), head.doubts) == ((HEAD,), ())


@pytest.mark.parametrize("side", [0, 1])
def test_images_of_several_channels_are_refused(side):
    images = [scan("brain"), scan("brain")]
    images[side] = Image(scan("brain").data.expand(-1, 3, -1, -1, -1), scan("brain").grid, "colour.nii")
    with pytest.raises(PatchMorphError, match=r"must have one channel, got 3 in colour\.nii$"):
        prepare_pair(*images)
