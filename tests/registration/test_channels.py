"""Further channels: what one image does not show is found from another of the same person."""

import math

import pytest
import torch
from estimators import estimating_model
from scans import BrainAtTheMiddle, changed, distance, scan
from synthetic import AFFINES, grid_around, smooth_image, smooth_velocity

from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.objective.similarity import structure
from patchmorph.registration import preparation
from patchmorph.registration.channels import Averaged, Channel
from patchmorph.registration.cross_contrast import in_one_contrast
from patchmorph.registration.initial import register_from
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.pipeline import register_pair
from patchmorph.registration.preparation import Selection, prepare_image, prepare_pair
from patchmorph.registration.result import Registration
from patchmorph.registration.stages.affine_refinement import AffineRefinementStage
from patchmorph.registration.stages.compared import ComparedVolumes
from patchmorph.registration.stages.velocity_refinement import REFINEMENT, VelocityRefinementStage
from patchmorph.spatial.grid import Grid, VoxelBox
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.resample import resample

SPACING = 5.0
SHAPE = (36, 40, 34)
IDENTITY = AffineTransform.identity()
GRID = grid_around(SHAPE, AFFINES["LPS"] * SPACING)
TRUTH = smooth_velocity(Grid.centered((12, 12, 12), 18.0, torch.zeros(1, 3)), 9.0, seed=3)


def half_blank(is_right: bool, grid: Grid = GRID) -> Image:
    """The synthetic brain whose left or right half shows structure; the other one is uniform."""
    image = smooth_image(grid)
    x = grid.points_world()[..., 0][:, None]
    shown = torch.sigmoid((x if is_right else -x) / 2)
    uniform = 0.55 * (image.data > 0.1)
    return Image(shown * image.data + (1 - shown) * uniform, grid, f"{'right' if is_right else 'left'} half")


def both_sides(is_right: bool, grid: Grid = GRID) -> tuple[Image, Image]:
    """The half of the fixed image, and that of the moving one, which is known under `TRUTH`."""
    return resample(half_blank(is_right), TRUTH, grid), half_blank(is_right, grid)


LEFT, RIGHT = both_sides(False), both_sides(True)


def pair(*channels: Channel) -> PreparedPair:
    return prepare_pair(*LEFT, channels=channels)


def refined(prepared: PreparedPair, passes: int = 12, start: Transform = IDENTITY) -> Transform:
    generator = torch.Generator().manual_seed(0)
    return VelocityRefinementStage(SPACING, passes, generator, REFINEMENT, 32).refine(prepared, start)


def nearly_refined(prepared: PreparedPair) -> Transform:
    return refined(prepared, 4)


def by_networks(prepared: PreparedPair) -> Transform:
    model = estimating_model(spacings_mm=[10.0, 5.0])
    return register_pair(prepared, (IDENTITY,), model).transform


def errors_mm(transform: Transform) -> tuple[float, float]:
    """Mean distance from the truth well inside the left and the right half of the brain."""
    points = GRID.points_world()[smooth_image(GRID).data[:, 0] > 0.1]
    distances = (transform(points[None]) - TRUTH(points[None])).norm(dim=-1)[0]
    return tuple(float(distances[side * points[:, 0] > 10].mean()) for side in (-1, 1))


def distance_mm(one: Transform, other: Transform) -> float:
    points = GRID.points_world()[smooth_image(GRID).data[:, 0] > 0.1][None]
    return float((one(points) - other(points)).norm(dim=-1).mean())


@pytest.mark.parametrize(("find", "gain"), [(refined, 0.65), (by_networks, 0.85)])
def test_each_region_is_right_where_a_channel_shows_it(find, gain):
    """Less so by networks, which see the mean, where the structure is half as strong."""
    left_alone, both = errors_mm(find(pair())), errors_mm(find(pair(Channel(*RIGHT))))
    right_alone = errors_mm(find(prepare_pair(*RIGHT)))
    assert both[0] < gain * right_alone[0]
    assert both[1] < gain * left_alone[1]
    assert both[0] < 1.5 * left_alone[0]  # nearly as with the channel alone
    assert both[1] < 1.5 * right_alone[1]


def test_a_small_weight_nearly_removes_a_channel():
    alone, both = refined(pair(), 4), refined(pair(Channel(*RIGHT)), 4)
    faint = refined(pair(Channel(*RIGHT, 0.01)), 4)
    assert distance_mm(faint, alone) < 0.05 * distance_mm(both, alone)


def test_the_weights_of_the_similarities_add_up():
    """One channel twice pulls as one of twice the weight."""
    twice = refined(pair(Channel(*RIGHT), Channel(*RIGHT)), 2)
    assert distance_mm(twice, refined(pair(Channel(*RIGHT, 2.0)), 2)) < 1e-3
    assert distance_mm(twice, refined(pair(Channel(*RIGHT)), 2)) > 1e-2


@pytest.mark.parametrize("find", [nearly_refined, by_networks])
def test_the_order_of_further_channels_does_not_matter(find):
    channels = [Channel(*RIGHT, 0.7), Channel(*LEFT, 0.3), Channel(smooth_image(GRID), smooth_image(GRID))]
    assert distance_mm(find(pair(*channels)), find(pair(*reversed(channels)))) < 1e-3


@pytest.mark.parametrize("find", [nearly_refined, by_networks])
def test_a_channel_may_lie_on_any_grid(find):
    other = grid_around((60, 36, 44), AFFINES["LIA"] * 4.0, (2, -3, 1))
    fixed, moving = both_sides(True, other)
    elsewhere = find(pair(Channel(fixed, moving)))
    same = find(pair(Channel(*RIGHT)))
    assert distance_mm(elsewhere, same) < 0.3 * distance_mm(same, IDENTITY)
    assert errors_mm(elsewhere)[1] < 0.85 * errors_mm(find(pair()))[1]


def test_channels_are_seen_through_an_initial_transform():
    start = AffineTransform.translation(torch.tensor([[4.0, -6, 3]]))

    def refine(prepared: PreparedPair, history: tuple[Transform, ...]) -> Registration:
        assert len(prepared.compared) == 2
        return Registration(prepared, (refined(prepared, 20, history[-1]),))

    found = register_from(pair(Channel(*RIGHT)), start @ TRUTH, refine).transform
    alone = register_from(
        pair(), start @ TRUTH, lambda p, h: Registration(p, (refined(p, 20, h[-1]),))
    ).transform
    assert errors_mm(found)[1] < 0.6 * errors_mm(alone)[1]


def test_each_channel_counts_by_its_weight_and_by_what_it_shows():
    """The dissimilarity of each, times the part of the block that its structure covers."""
    uniform = Image(0.6 * (LEFT[0].data > 0.1), GRID)
    prepared = pair(Channel(uniform, RIGHT[1], 0.5))
    images = ComparedVolumes(prepared, IDENTITY, GRID, SPACING)
    block = (slice(None), slice(None), slice(6, 30), slice(8, 32), slice(6, 28))
    box = VoxelBox((6, 8, 6), (30, 32, 28))
    voxels = torch.stack(
        torch.meshgrid(*(torch.arange(a.start, a.stop) for a in block[2:]), indexing="ij"), -1
    )
    expected = 0.0
    for fixed, moving, weight in prepared.compared:
        one, other = fixed.read(box), moving.read(box)
        covered = float(structure(fixed.values())[block].mean())
        expected += weight * float(REFINEMENT.dissimilarity(one, other)) * covered
    found = images.dissimilarity(block, voxels[None].float(), REFINEMENT)
    assert float(found) == pytest.approx(expected, rel=1e-3)


def test_content_is_what_any_channel_shows():
    """Patches without content are skipped: the right half is dark in the first channel."""
    dark = Image(LEFT[1].data * (GRID.points_world()[..., 0] < 0)[:, None], GRID)
    prepared = prepare_pair(dark, dark, channels=[Channel(RIGHT[1], RIGHT[1])])
    content = ComparedVolumes(prepared, IDENTITY, GRID, SPACING).content()
    assert content[smooth_image(GRID).data > 0.1].all()
    assert prepared.fixed.content.box_world[1, 0] > 60  # mm: to the end of the brain, not to its middle


def test_an_affine_map_is_found_from_all_channels():
    """The first channel is uniform where the second one shows structure, and nearly round."""
    shift = AffineTransform.translation(torch.tensor([[4.0, -6, 3]]))
    smooth = Image(torch.where(distance(smooth_image(GRID)) < 1, 0.6, 0.0), GRID)
    moving = smooth_image(GRID)
    channel = Channel(resample(moving, shift, GRID), moving)
    prepared = prepare_pair(smooth, smooth, channels=[channel])
    stage = AffineRefinementStage(SPACING, 48, REFINEMENT)
    found, alone = (stage.refine(each, IDENTITY) for each in (prepared, prepare_pair(smooth, smooth)))
    assert distance_mm(alone, IDENTITY) < 0.5
    assert distance_mm(found, shift) < 0.75 * distance_mm(alone, shift)


# The mean


def test_the_mean_is_weighted():
    one, other = (
        Image(torch.full((1, 1, 4, 4, 4), value), Grid.centered((4, 4, 4), 1.0, torch.zeros(1, 3)))
        for value in (0.2, 0.8)
    )
    for weight in (1.0, 0.5, 3.0):
        mean = one.mapped(Averaged((other.mapped(),), (weight,))).values()
        torch.testing.assert_close(mean, torch.full_like(mean, (0.2 + weight * 0.8) / (1 + weight)))


def test_a_pair_of_one_channel_is_compared_as_it_is():
    prepared = pair()
    (compared,) = prepared.compared
    assert (compared.fixed, compared.moving) == (prepared.fixed.image, prepared.moving.image)
    assert compared.weight == 1
    assert prepared.fixed.channels == ()


def test_the_channels_are_those_of_the_pair_and_their_mean_is_its_image():
    prepared = pair(Channel(*RIGHT, 0.5))
    first, second = prepared.compared
    assert (first.weight, second.weight) == (1, 0.5)
    mean = (first.fixed.values() + 0.5 * second.fixed.values()) / 1.5
    torch.testing.assert_close(prepared.fixed.image.values(), mean, atol=1e-5, rtol=0)


def test_a_channel_in_which_bright_is_dark_is_inverted_in_the_mean_only():
    """T1 and T2: their plain mean would show next to nothing."""
    image = smooth_image(GRID)
    inside = image.data > 0.1
    opposite = Image(torch.where(inside, 1.0 - image.data, 0), GRID)
    prepared = prepare_pair(image, image, channels=[Channel(opposite, opposite)])
    first, second = (channel.fixed.values() for channel in prepared.compared)
    deep = distance(image) < 0.85

    def r(one, other):
        return float(torch.corrcoef(torch.stack([one[deep], other[deep]]))[0, 1])

    assert r(first, second) < -0.9
    for side in (prepared.fixed, prepared.moving):
        assert r(first, side.image.values()) > 0.9
        assert side.image.values()[deep].std() > 0.7 * first[deep].std()


def test_a_channel_of_other_structures_is_averaged_as_it_is():
    x, y, z = GRID.points_world()[0].unbind(-1)
    image = smooth_image(GRID)
    other = Image(image.data.gt(0.1) * (0.5 + 0.4 * torch.sin(x / 5 + y / 6) * torch.cos(z / 5)), GRID)
    prepared = prepare_pair(image, image, channels=[Channel(other, other)])
    first, second = (channel.fixed.values() for channel in prepared.compared)
    torch.testing.assert_close(prepared.fixed.image.values(), (first + second) / 2, atol=1e-5, rtol=0)


def test_beyond_the_field_of_view_of_a_channel_the_others_count_alone():
    image = smooth_image(GRID)
    kept = SHAPE[2] // 2
    slab = Image(image.data[..., :kept], GRID.crop((0, 0, 0), (*SHAPE[:2], kept)), "slab")
    prepared = prepare_pair(image, image, channels=[Channel(slab, slab)])
    whole = prepare_pair(image, image).fixed.image.values()
    outside = slice(kept + 1, None)
    torch.testing.assert_close(prepared.fixed.image.values()[..., outside], whole[..., outside])
    assert not prepared.is_truncated
    assert prepared.compared[1].fixed.truncated_faces == ((2, 1),)


def test_an_image_in_another_contrast_is_compared_as_the_mean():
    prepared = pair(Channel(*RIGHT))
    remapped = in_one_contrast(prepared, IDENTITY, "moving")
    (compared,) = remapped.compared
    assert compared.fixed is prepared.fixed.image
    assert compared.moving is remapped.moving.image


# What is registered of a channel


def t2(head: Image) -> Image:
    """The same object with another contrast, background and noise included, on a coarser grid."""
    bent = changed(head, 40 + 300 * (head.data / 100 - 0.5).abs() * (head.data > 5))
    return Image(bent.data, head.grid, "t2")


def test_the_brain_of_a_head_is_that_of_its_channels():
    head = scan("head")
    prepared = prepare_image(head, Selection(), BrainAtTheMiddle(head), (t2(head),))
    _, channel = prepared.channels
    assert (channel.values()[distance(head) > 1.15] == 0).all()
    assert (channel.values()[distance(head) < 0.9] > 0).float().mean() > 0.9
    assert sum("the brain was found" in note for note in prepared.notes) == 1


def test_a_channel_may_show_the_head_of_an_extracted_brain(monkeypatch):
    head = scan("head")
    network = BrainAtTheMiddle(head)
    brain = Image(head.data * (distance(head) < 1), head.grid, "brain")
    find = preparation.find_brain  # the network of these tests is one for heads only
    monkeypatch.setattr(
        preparation, "find_brain", lambda *given: None if given[1].name == "brain" else find(*given)
    )
    prepared = prepare_image(brain, Selection(), network, (Image(head.data, head.grid, "t2"),))
    _, channel = prepared.channels
    assert (channel.values()[distance(head) > 1.15] == 0).all()
    assert any(note.startswith("t2: the brain was found") for note in prepared.notes)


def test_a_mask_and_what_is_ignored_hold_for_all_channels():
    image = smooth_image(GRID)
    other = t2(Image(100 * image.data, GRID))
    low = (GRID.points_world()[..., 2] < 0)[:, None]
    spot = (GRID.points_world() - torch.tensor([20.0, 0, -20])).norm(dim=-1)[:, None] < 12
    marked = Image(torch.where(spot, 500.0, other.data), GRID, "marked")
    masks = Selection(Image(low.float(), GRID), Image(spot.float(), GRID))
    prepared = prepare_image(image, masks, None, (marked,))
    _, channel = prepared.channels
    assert (channel.values()[~low & (GRID.points_world()[..., 2] > SPACING)[:, None]] == 0).all()
    assert channel.values()[spot].std() < 0.1
    assert sum(note.startswith("marked: what is ignored") for note in prepared.notes) == 1


def test_small_bright_cells_of_a_channel_are_kept():
    """What is apart from the rest is left out of an image, but is what a fluorophore shows."""
    image = smooth_image(GRID)
    points = GRID.points_world()
    cells = sum(
        1.0 * ((points - torch.tensor(place)).norm(dim=-1) < size)
        for place, size in (([0.0, 0, 0], 25), ([45.0, 0, 0], 7), ([0.0, 55, 0], 7))
    )
    channel = prepare_image(image, further=(Image(cells[:, None], GRID),)).channels[1]
    assert (channel.values()[cells[:, None] > 0] > 0).all()


# Notes and errors


def test_notes_say_that_the_image_alone_is_warped_and_measured():
    note = "compared beside the images; what is warped and measured is the images only"
    assert pair(Channel(*RIGHT)).notes == (f"1 further channel was {note}",)
    assert pair(Channel(*RIGHT), Channel(*RIGHT)).notes == (f"2 further channels were {note}",)
    assert pair().notes == ()


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_a_weight_must_be_a_number_above_0(weight):
    with pytest.raises(PatchMorphError, match=f"weight of a channel must be a number above 0, got {weight}"):
        Channel(*RIGHT, weight)


def test_a_channel_that_cannot_be_used_is_named():
    empty = Image(torch.zeros(1, 1, *SHAPE), GRID, "empty.nii")
    with pytest.raises(PatchMorphError, match=r"empty\.nii"):
        pair(Channel(empty, RIGHT[1]))
    double = Image(torch.cat([RIGHT[1].data] * 2, 1), GRID, "double.nii")
    with pytest.raises(PatchMorphError, match=r"must have one channel, got 2 in double\.nii"):
        pair(Channel(RIGHT[0], double))
