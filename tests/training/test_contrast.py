"""What the networks see in another contrast, and that the losses do not."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from tiny import CPU, SPACINGS, all_terms, config, draw

from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.networks.model import PatchMorphModel
from patchmorph.spatial.grid import Grid
from patchmorph.training.augmentation.contrast import (
    NUMBERS,
    PAINTS,
    SAME,
    Contrast,
    check_labels,
    one_contrast,
)
from patchmorph.training.augmentation.draw import Draw
from patchmorph.training.augmentation.pair import augmented_pair
from patchmorph.training.config import Augmentation, Data
from patchmorph.training.data.cohort import Cohort


@pytest.fixture(scope="module")
def labelled(subjects, images, tmp_path_factory) -> Cohort:
    folder = tmp_path_factory.mktemp("labels")
    for number, image in enumerate(images):
        labels = (image.data * 6).round().clamp(max=5).to(torch.int16)
        save_image(Image(labels, image.grid), folder / f"{number}.nii")
    files = [replace(s, labels=folder / f"{n}.nii") for n, s in enumerate(subjects)]
    return Cohort(files, SPACINGS, Data(images=["unused"]), CPU)


def numbers(count=3, seed=0):
    return 2 * torch.rand(count, NUMBERS, generator=torch.Generator().manual_seed(seed)) - 1


def seen(cohort, contrast, index, spacing_mm):
    points = Grid.centered((16, 16, 16), spacing_mm, cohort.centers_world[index]).points_world()
    values = cohort.select(index).sample(points, spacing_mm)
    return values, contrast.of(values, cohort.select(index), points, spacing_mm)


def plain(contrast: Contrast, **changes) -> Contrast:
    """Without bias and noise."""
    return replace(contrast, bias=0 * contrast.bias, noise=0 * contrast.noise, **changes)


def test_a_straight_curve_changes_nothing_and_a_falling_one_turns_the_contrast_round(labelled):
    index = torch.tensor([0, 1, 0])
    made = Contrast.from_numbers(numbers(), labelled.select(index), labelled.centers_world[index], 1.0)
    steps = torch.linspace(0, 1, made.curve.shape[1]).expand_as(made.curve)
    values, same = seen(labelled, plain(made, share=torch.zeros(3), curve=steps), index, SPACINGS[-1])
    torch.testing.assert_close(same, values, atol=1e-5, rtol=0)
    values, turned = seen(labelled, plain(made, share=torch.zeros(3), curve=1 - steps), index, SPACINGS[-1])
    torch.testing.assert_close(turned, 1 - values, atol=1e-5, rtol=0)


def test_a_coarse_voxel_is_the_mean_of_remapped_fine_ones(labelled):
    """Of the eight a quarter of a voxel off, as a coarse picture of another contrast would be."""
    index = torch.tensor([1])
    made = Contrast.from_numbers(numbers(1), labelled.select(index), labelled.centers_world[index], 1.0)
    steps = torch.linspace(0, 1, made.curve.shape[1])[None]
    points = Grid.centered((16, 16, 16), 12.0, labelled.centers_world[index]).points_world()
    images = labelled.select(index)
    around = [images.sample(points + 3 * torch.tensor(corner), 6.0) for corner in product((-1, 1), repeat=3)]
    for curve, remap in ((steps, lambda fine: fine), (1 - steps, lambda fine: 1 - fine)):
        straight = plain(made, share=torch.zeros(1), curve=curve)
        expected = torch.stack([remap(fine) for fine in around]).mean(0)
        assert (expected - remap(images.sample(points, 12.0))).abs().max() > 0.01
        torch.testing.assert_close(
            straight.of(0 * expected, images, points, 12.0), expected, atol=1e-5, rtol=0
        )


def test_labels_are_painted_each_in_its_own_grey(labelled):
    index = torch.tensor([0, 1, 1])
    made = Contrast.from_numbers(numbers(), labelled.select(index), labelled.centers_world[index], 1.0)
    points = Grid.centered((16, 16, 16), 2.0, labelled.centers_world[index]).points_world()
    values, shown = torch.zeros(3, 1, 16, 16, 16), labelled.select(index).labels(points)
    painted = plain(made, share=torch.ones(3)).of(values, labelled.select(index), points, SPACINGS[-1])
    near = labelled.select(index).painted(points, made.paint, 1e-3)  # eight points in one place
    for row in range(3):
        torch.testing.assert_close(near[row], made.paint[row][shown[row].long()])
    # Over the reach of a coarse voxel borders mix; most of what is painted keeps its order.
    flat = torch.stack([near.flatten(), painted.flatten()])
    assert torch.corrcoef(flat)[0, 1] > 0.7


def test_images_keep_their_contrast_as_often_as_asked(labelled):
    index = torch.zeros(400, dtype=torch.int64)
    images, center = labelled.select(index), labelled.centers_world[index]
    share = Contrast.from_numbers(numbers(400), images, center, 0.7).other.mean()
    assert abs(share - 0.7) < 0.1  # four standard deviations
    few = torch.zeros(2, dtype=torch.int64)
    never = Contrast.from_numbers(numbers(2), labelled.select(few), labelled.centers_world[few], 0.0)
    assert torch.equal(*seen(labelled, never, few, 12.0))


def test_numbers_become_curve_paint_mixture_bias_and_noise(labelled, cohort):
    """Each group of numbers by hand; −1 to 1 stands for 0 to 1."""
    drawn = torch.zeros(3, NUMBERS)
    drawn[:, 1] = torch.tensor([2 * 0.4 - 1, 2 * 0.55 - 1, 2 * 0.7 - 1])
    drawn[:, 2:5] = torch.tensor([[1.0, 1.0, -1.0], [0.0, 0.0, -0.5], [-1.0, -1.0, 1.0]])
    drawn[:, 5:11] = torch.tensor([-1.0, -0.5, 0.0, 0.6, 0.2, -0.2])
    drawn[:, 11 + 1 : 11 + 4] = torch.tensor([0.0, -0.5, -1.0])
    drawn[:, 11 + 4 : 75] = -1
    drawn[:, 75:] = torch.linspace(-1, 1, 125)
    index = torch.tensor([0, 1, 0])
    center = labelled.centers_world[index]
    made = Contrast.from_numbers(drawn, labelled.select(index), center, 1.0)
    # Zero stays zero, the largest is 1: (1 + n) / 2 over 0.8.
    knots = torch.tensor([0, 0, 0.25, 0.5, 0.8, 0.6, 0.4]) / 0.8
    torch.testing.assert_close(made.curve, knots.expand(3, 7))
    paint = torch.tensor([0, 1, 0.5, 0.0])
    torch.testing.assert_close(made.paint[:, :4], paint.expand(3, 4))
    assert made.paint.shape == (3, PAINTS)
    # Curve only up to 0.4, paint only from 0.7 on.
    torch.testing.assert_close(made.share, torch.tensor([0.0, 0.5, 1.0]), atol=1e-5, rtol=0)
    # A logarithm of at most 0.3, times a strength from 0 to 1.
    lattice = torch.linspace(-0.3, 0.3, 125).reshape(1, 1, 5, 5, 5)
    strengths = torch.tensor([1.0, 0.5, 0.0]).reshape(3, 1, 1, 1, 1)
    torch.testing.assert_close(made.bias, strengths * lattice)
    torch.testing.assert_close(made.grid.center_world, center)
    torch.testing.assert_close(made.grid.spacing_mm, torch.full((3, 3), 64.0, dtype=torch.float64))
    torch.testing.assert_close(made.noise, torch.tensor([0.04, 0.01, 0.0]))
    torch.testing.assert_close(made.grain, torch.tensor([0.0, 0.25, 1.0]) * 2**20)
    # Who has no labels is never painted.
    assert Contrast.from_numbers(drawn, cohort.select(index), center, 1.0).share.tolist() == [0, 0, 0]


def test_bias_multiplies_and_noise_is_added_but_not_to_the_background(labelled):
    index = torch.tensor([0])
    made = Contrast.from_numbers(numbers(1), labelled.select(index), labelled.centers_world[index], 1.0)
    steps = torch.linspace(0, 0.5, made.curve.shape[1])[None]  # halves intensities: none is cut off at 1
    straight = plain(made, share=torch.zeros(1), curve=steps)
    values, before = seen(labelled, straight, index, SPACINGS[-1])
    torch.testing.assert_close(before, values / 2, atol=1e-5, rtol=0)
    biased = replace(straight, bias=torch.full_like(made.bias, 0.2))
    torch.testing.assert_close(
        seen(labelled, biased, index, SPACINGS[-1])[1], before * 1.2214, rtol=1e-3, atol=0
    )
    noisy = seen(labelled, replace(straight, noise=torch.tensor([0.02])), index, SPACINGS[-1])[1]
    background = before < 0.005
    assert torch.equal(noisy[background], before[background])
    inside = before > 0.1  # where noise of five standard deviations stays above zero
    assert (noisy - before)[inside].std().item() == pytest.approx(0.02, rel=0.1)


def test_each_image_of_a_pair_has_its_own_numbers(labelled):
    drawn = Draw.sample(2, 3, 2, 0.5, torch.Generator().manual_seed(0), contrasts=True)
    own = replace(drawn, contrast=drawn.contrast.clone())
    own.contrast[:, 1, 0] = 1  # no pair shares one contrast
    pair = augmented_pair(labelled, own, Augmentation(contrast=1.0))
    for side, index in ((0, own.fixed_index), (1, own.moving_index)):
        images, center = labelled.select(index), labelled.centers_world[index]
        expected = Contrast.from_numbers(own.contrast[:, side], images, center, 1.0)
        found = (pair.fixed, pair.moving)[side].contrast
        assert torch.equal(found.curve, expected.curve)
        assert torch.equal(found.share, expected.share)
        torch.testing.assert_close(found.grid.center_world, center)
    assert augmented_pair(labelled, own, Augmentation()).fixed.contrast is None


def test_some_pairs_share_one_contrast():
    both = torch.stack([numbers(400), numbers(400, seed=1)], 1)
    first, second = one_contrast(both).unbind(1)
    alike = (first == second).all(1).float().mean()
    assert abs(alike - SAME) < 0.1  # four standard deviations


def test_similarity_is_measured_in_the_images_own_contrast(labelled):
    """Networks that move nothing give the same loss whatever they see; other networks do not."""
    sections = {"augmentation": {"contrast": 1.0, "gamma": 0.0}, "objective": {"overlap": 1.0}}
    with_contrast, without = (
        config(**sections),
        config(augmentation={"gamma": 0.0}, objective={"overlap": 1.0}),
    )
    torch.manual_seed(0)
    model = PatchMorphModel(without.model)
    drawn = Draw.sample(2, 3, 2, 0.5, torch.Generator().manual_seed(0), contrasts=True)
    with torch.no_grad():
        assert model.affine is not None
        other = all_terms(model, labelled, drawn, with_contrast)["loss"]
        own = all_terms(model, labelled, drawn, without)["loss"]
        assert not torch.allclose(other, own, atol=1e-6)
        for network in (model.affine, *model.dense):
            for parameter in network.parameters():
                parameter.zero_()
        other = all_terms(model, labelled, drawn, with_contrast)["loss"]
        own = all_terms(model, labelled, drawn, without)["loss"]
    torch.testing.assert_close(other, own)


def test_the_same_draw_looks_the_same(labelled):
    drawn = Draw.sample(2, 3, 2, 0.5, torch.Generator().manual_seed(1), contrasts=True)
    views = [augmented_pair(labelled, drawn, Augmentation(contrast=1.0)).moving for _ in range(2)]
    points = Grid.centered((8, 8, 8), 12.0, labelled.centers_world[drawn.moving_index]).points_world()
    looks = [view.shown(view.intensities(points, 12.0), points, 12.0) for view in views]
    assert torch.equal(*looks)
    assert looks[0].amin() >= 0
    assert looks[0].amax() <= 1


def test_too_many_labels_to_paint_are_refused():
    check_labels(PAINTS - 1)
    with pytest.raises(PatchMorphError, match=f"fewer than {PAINTS} .* got {PAINTS}"):
        check_labels(PAINTS)


def test_a_draw_without_contrasts_has_no_numbers_for_them():
    assert draw().contrast.shape == (3, 2, 0)
