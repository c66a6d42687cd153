"""Labels, masks and landmarks that come with the subjects."""

from dataclasses import replace

import pytest
import torch
from accelerate import PartialState
from tiny import CPU, EXACT, SPACINGS, STILL, all_terms, config, draw, still_draw

from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image, save_image
from patchmorph.spatial.grid import Grid
from patchmorph.training.config import Data
from patchmorph.training.data.cohort import Cohort
from patchmorph.training.gradients import FlatGradients, add_gradients
from patchmorph.training.loop import Training


@pytest.fixture(scope="module")
def labelled(images, subjects, tmp_path_factory):
    """Both subjects with labels and landmarks, the first with a mask of its left half."""
    folder = tmp_path_factory.mktemp("labelled")
    result = []
    for number, (image, subject) in enumerate(zip(images, subjects, strict=True)):
        labels, points = folder / f"{number}_labels.nii", folder / f"{number}.csv"
        save_image(Image((image.data * 6).to(torch.int16), image.grid), labels)
        points.write_text("name,x,y,z\na,20,10,5\nb,-25,-10,8\n")
        result.append(replace(subject, labels=labels, landmarks=points))
    half = torch.ones_like(images[0].data, dtype=torch.uint8)
    half[:, :, : half.shape[2] // 2] = 0
    save_image(Image(half, images[0].grid), folder / "mask.nii")
    result[0] = replace(result[0], mask=folder / "mask.nii")
    return result


@pytest.fixture(scope="module")
def cohort_with_all(labelled):
    return Cohort(labelled, SPACINGS, Data(images=["unused"]), CPU)


def silence(model) -> None:
    """Let networks move nothing."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()


def test_the_overlap_of_a_subject_with_itself_is_nearly_whole(model, cohort_with_all):
    """An untrained network moves nothing; then only interpolation keeps soft labels from the hard ones."""
    objective = {"overlap": 1.0}
    still = config(augmentation=STILL.model_dump(), pairs=EXACT, objective=objective)
    moved = config(pairs=EXACT, objective=objective)
    drawn = draw(1.0)
    aligned, apart = (all_terms(model, cohort_with_all, drawn, c)["overlap/1"] for c in (still, moved))
    assert aligned.max() < 0.3  # the labels are shells about as thick as a voxel
    assert (apart > aligned + 0.1).all()


def test_a_step_along_the_gradient_of_the_overlap_makes_it_better(model, cohort_with_all):
    """As much as its slope promises: the gradient is that of the term, and reaches the network."""
    only = {"diffusion": 0, "folding": 0, "supervision": 0, "affine_weight": 0}
    plain, more = (config(objective={**only, "overlap": weight}) for weight in (0.0, 1.0))
    last, drawn = model.dense[-1], draw(0.0)
    gradients = []
    for configuration in (plain, more):  # the similarity is in both
        FlatGradients(model)
        add_gradients(model, cohort_with_all, drawn, configuration)
        gradients.append([p.grad.clone() for p in last.parameters()])
    slopes = [b - a for a, b in zip(*gradients, strict=True)]
    steepness = sum(float(slope.square().sum()) for slope in slopes)
    name = f"overlap/{len(SPACINGS) - 1}"
    before = all_terms(model, cohort_with_all, drawn, more)[name].mean()
    gain = 2e-3
    with torch.no_grad():
        for parameter, slope in zip(last.parameters(), slopes, strict=True):
            parameter -= gain / steepness * slope
    after = all_terms(model, cohort_with_all, drawn, more)[name].mean()
    assert (before - after).item() == pytest.approx(gain, rel=0.3)  # trilinear weights have kinks


TERMS = ("diffusion", "folding", "supervision", "overlap", "landmarks")


@pytest.mark.parametrize("name", [*TERMS, "affine_weight"])
def test_a_weight_adds_its_term_to_the_loss(model, cohort_with_all, name):
    """In every stage that has the term, and nothing else changes."""
    none = dict.fromkeys((*TERMS, "affine_weight"), 0.0)
    if name == "folding":  # for which an untrained network moves too little
        for network in model.dense:
            network.velocity.weight.data *= 1000
    drawn, once = draw(1.0), {"affine_passes": 1}
    # With a weight of nearly nothing the term is computed and adds nothing.
    asked, more = (config(objective={**none, name: weight}, optimization=once) for weight in (1e-12, 0.5))
    before, after = (all_terms(model, cohort_with_all, drawn, chosen) for chosen in (asked, more))
    stages = range(len(SPACINGS))
    if name == "affine_weight":
        values = before["similarity/affine"]
    elif name == "supervision":
        values = sum(before[f"error_mm/{stage}"] for stage in ("affine", *stages))
    else:
        values = sum(before[f"{name}/{stage}"] for stage in stages)
    if name == "landmarks":  # that of the affine stage, which is not reported, is nearly that of the next
        values = values + before["landmarks/0"]
    atol = 0.1 if name == "landmarks" else 1e-5  # an untrained network moves hundredths of 12 mm
    torch.testing.assert_close(after["loss"] - before["loss"], 0.5 * values, rtol=1e-3, atol=atol)
    assert (values > (1 if name == "landmarks" else 0)).all()


def test_the_gradient_of_the_overlap_is_its_slope(model, cohort_with_all):
    """Along its own gradient g the weighted term rises by |g|² per unit, as a central difference finds.

    With one affine look: between looks the gradient is stopped on purpose.
    """
    drawn, gradients = draw(1.0, batch=2), []
    for weight in (0.0, 50.0):
        flat = FlatGradients(model)
        asked = config(objective={"overlap": weight}, optimization={"affine_passes": 1})
        add_gradients(model, cohort_with_all, drawn, asked)
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
        assert flat.buffer.norm() > 0
    slope = [more - without for without, more in zip(*gradients, strict=True)]  # of the overlap alone
    square = sum(part.square().sum().item() for part in slope)
    assert square > 0.1

    @torch.no_grad()
    def overlap_at(step):
        for sign in (1, -1):
            for parameter, part in zip(model.parameters(), slope, strict=True):
                parameter += sign * step * part
            if sign == 1:
                found = all_terms(model, cohort_with_all, drawn, asked)
        return 50 * (found["overlap/0"] + found["overlap/1"]).mean().item()

    step = 1e-3 / square**0.5
    # Labels are trilinear between voxels: the slope changes where points cross from one voxel to the next.
    assert (overlap_at(step) - overlap_at(-step)) / (2 * step) == pytest.approx(square, rel=0.1)


def test_landmarks_of_a_known_pair_lie_where_the_truth_says(model, cohort_with_all):
    drawn = draw(1.0)
    still = config(augmentation=STILL.model_dump(), pairs=EXACT, objective={"landmarks": 1.0})
    # Patches are of 12 mm voxels, of which an untrained network moves a few hundredths.
    assert all_terms(model, cohort_with_all, drawn, still)["landmarks/0"].max() < 0.1
    moved = config(pairs=EXACT, objective={"landmarks": 1.0})
    terms = all_terms(model, cohort_with_all, drawn, moved)
    assert (terms["landmarks/0"] > 1).all()
    flat = FlatGradients(model)
    add_gradients(model, cohort_with_all, drawn, moved)
    assert torch.isfinite(flat.buffer).all()


def test_what_a_mask_hides_does_not_count(model, cohort_with_all, labelled, images):
    """Another picture in the hidden half changes no similarity, on whichever side of a pair it is.

    Networks see all of a patch, so they must move nothing here. Interpolation reaches one voxel into what is
    hidden, so the picture differs beyond two.
    """
    silence(model)
    objective = {"similarity": "mse", "supervision": 0}
    asked = config(augmentation=STILL.model_dump(), pairs=EXACT, objective=objective)
    drawn = still_draw(
        batch=4, fixed_index=torch.tensor([0, 0, 1, 1]), moving_index=torch.tensor([0, 1, 0, 1])
    )

    found = {}
    for name, subjects in (("masked", labelled), ("unmasked", [replace(s, mask=None) for s in labelled])):
        cohort = Cohort(subjects, SPACINGS, Data(images=["unused"]), CPU)
        before = all_terms(model, cohort, drawn, asked)["similarity/1"]
        level = images[0].normalized().level(6.0)
        data = (level.values() * 255).round()
        hidden = level.values().shape[2] // 2 - 2
        data[:, :, :hidden] = 255 - data[:, :, :hidden]
        cohort.levels[6.0].put(0, data.to(torch.uint8), level.grid)
        found[name] = all_terms(model, cohort, drawn, asked)["similarity/1"] - before
    torch.testing.assert_close(found["masked"], torch.zeros(4))
    # Without a mask the other picture counts, where the two images are not the same one.
    assert (found["unmasked"] > 0.01).tolist() == [False, True, True, False]


def test_masked_similarity_is_the_mean_over_what_both_masks_leave(model, cohort_with_all):
    """By hand: the mean squared difference of both patches where the masks of both are 1."""
    silence(model)
    off = {**EXACT, "start_mm": 10.0}
    asked = config(augmentation=STILL.model_dump(), pairs=off, objective={"similarity": "mse"})
    start = torch.tensor([[1.0, -1.0, 0.0]])
    drawn = still_draw(fixed_index=torch.tensor([1]), moving_index=torch.tensor([0]), start=start)
    found = all_terms(model, cohort_with_all, drawn, asked)["similarity/0"]
    fixed, moving = cohort_with_all.centers_world[1:2], cohort_with_all.centers_world[0:1]
    points = Grid.centered((16, 16, 16), SPACINGS[0], fixed).points_world()
    there = points + (moving - fixed).float() + 10 * start
    one, other = cohort_with_all.select(torch.tensor([1])), cohort_with_all.select(torch.tensor([0]))
    # Views add 1e-4 to intensities: the difference is the same.
    difference = (one.sample(points, SPACINGS[0]) - other.sample(there, SPACINGS[0])).square()
    inside = other.mask(there)
    assert 0.2 < inside.mean() < 0.8
    assert found.item() == pytest.approx((difference * inside).sum().item() / inside.sum().item(), rel=1e-3)


@pytest.mark.parametrize(("value", "similarity"), [(0, "mse"), (1, "lncc")])
def test_a_mask_of_nothing_leaves_nothing_and_one_of_everything_all(
    model, labelled, tmp_path, value, similarity
):
    """The mean squared difference over no voxel is zero; the correlation over all voxels needs no mask."""
    image = load_image(labelled[0].image)
    save_image(Image(torch.full_like(image.data, value, dtype=torch.uint8), image.grid), tmp_path / "m.nii")
    drawn, objective = draw(1.0, batch=6), {"similarity": similarity}
    unmasked, masked = (
        Cohort([replace(labelled[0], mask=mask), labelled[1]], SPACINGS, Data(images=["unused"]), CPU)
        for mask in (None, tmp_path / "m.nii")
    )
    plain, found = (
        all_terms(model, cohort, drawn, config(objective=objective)) for cohort in (unmasked, masked)
    )
    first = drawn.fixed_index == 0
    assert 0 < first.sum() < 6
    for stage in ("affine", *range(len(SPACINGS))):
        name = f"similarity/{stage}"
        assert (plain[name] > 1e-4).all()
        torch.testing.assert_close(found[name][~first], plain[name][~first])
        if value == 0:
            assert found[name][first].abs().max() == 0
        else:  # but for the edge of the image, where its mask ends: some hundredths
            torch.testing.assert_close(found[name][first], plain[name][first], rtol=0, atol=0.05)


@pytest.mark.parametrize("term", ["overlap", "landmarks"])
def test_a_term_without_data_is_refused(subjects, tmp_path, term):
    pattern = str(subjects[0].image.parent / "*.nii")
    asking = config(tmp_path, data={"images": [pattern]}, objective={term: 0.5})
    with pytest.raises(
        PatchMorphError, match=f"objective.{term} must be 0 where no subject has any, got 0.5"
    ):
        Training(asking, CPU, PartialState(cpu=True), tmp_path)
