"""What the networks see in another contrast, and that the losses do not."""

from dataclasses import replace

import pytest
import torch
from tiny import CPU, SPACINGS, all_terms, config, draw

from patchmorph.errors import PatchMorphError
from patchmorph.io.images import save_image
from patchmorph.registration.model import PatchMorphModel
from patchmorph.spatial.grid import Grid
from patchmorph.spatial.image import Image
from patchmorph.training.augmentation import Draw, augmented_pair
from patchmorph.training.cohort import Cohort
from patchmorph.training.config import Augmentation, Data
from patchmorph.training.contrast import NUMBERS, PAINTS, SAME, Contrast, check_labels, one_contrast


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
    values, kept = seen(labelled, Contrast.from_numbers(numbers(400), images, center, 0.0), index[:400], 12.0)
    assert torch.equal(values, kept)


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
