"""Labels, masks and landmarks that come with the subjects."""

from dataclasses import replace

import pytest
import torch
from tiny import CPU, SPACINGS, all_terms, config, draw

from patchmorph.errors import PatchMorphError
from patchmorph.io.images import save_image
from patchmorph.registration.model import PatchMorphModel
from patchmorph.spatial.image import Image
from patchmorph.training.cohort import Cohort
from patchmorph.training.config import Augmentation, Data
from patchmorph.training.gradients import FlatGradients, add_gradients
from patchmorph.training.loop import PartialState, Training

STILL = Augmentation(
    rotation_deg=0, scale=0, anisotropy=0, shear=0, shift_mm=0, coarse_mm=0, fine_mm=0, mirror=False
)
EXACT = {"start_mm": 0, "root_mm": 0}


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


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PatchMorphModel(config().model)


def test_the_overlap_of_a_subject_with_itself_is_nearly_whole(model, cohort_with_all):
    """An untrained network moves nothing; then only interpolation keeps soft labels from the hard ones."""
    objective = {"overlap": 1.0}
    still = config(augmentation=STILL.model_dump(), pairs=EXACT, objective=objective)
    moved = config(pairs=EXACT, objective=objective)
    drawn = draw(1.0)
    aligned, apart = (all_terms(model, cohort_with_all, drawn, c)["overlap/1"] for c in (still, moved))
    assert aligned.max() < 0.3  # the labels are shells about as thick as a voxel
    assert (apart > aligned + 0.1).all()


def test_the_gradient_of_the_overlap_teaches_the_networks(model, cohort_with_all):
    only = {"overlap": 1.0, "diffusion": 0, "folding": 0, "supervision": 0, "affine_weight": 0}
    plain, more = (config(objective={**only, "overlap": weight}) for weight in (0.0, 1.0))
    gradients = []
    for configuration in (plain, more):
        flat = FlatGradients(model)
        add_gradients(model, cohort_with_all, draw(0.0), configuration)
        gradients.append(flat.buffer)
    assert (gradients[1] - gradients[0]).norm() > 1e-3


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


def test_what_a_mask_hides_does_not_count(model, cohort_with_all, labelled):
    """Pairs of the masked subject change, those of the other do not."""
    unmasked = [replace(subject, mask=None) for subject in labelled]
    without = Cohort(unmasked, SPACINGS, Data(images=["unused"]), CPU)
    drawn = draw(1.0, batch=6)
    values = [
        all_terms(model, cohort, drawn, config())["similarity/1"] for cohort in (cohort_with_all, without)
    ]
    masked = drawn.fixed_index == 0
    assert 0 < masked.sum() < 6
    torch.testing.assert_close(values[0][~masked], values[1][~masked])
    assert (values[0][masked] != values[1][masked]).all()


@pytest.mark.parametrize("term", ["overlap", "landmarks"])
def test_a_term_without_data_is_refused(subjects, tmp_path, term):
    pattern = str(subjects[0].image.parent / "*.nii")
    asking = config(tmp_path, data={"images": [pattern]}, objective={term: 0.5})
    with pytest.raises(
        PatchMorphError, match=f"objective.{term} must be 0 where no subject has any, got 0.5"
    ):
        Training(asking, CPU, PartialState(cpu=True), tmp_path)
