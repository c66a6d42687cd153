import json
from dataclasses import replace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from synthetic import AFFINES, grid_around, smooth_image

from patchmorph.errors import PatchMorphError
from patchmorph.io.images import save_image
from patchmorph.registration.model import PatchMorphModel
from patchmorph.spatial.grid import Grid
from patchmorph.training.augmentation import Draw, augmented_pair
from patchmorph.training.cohort import Cohort
from patchmorph.training.config import Augmentation, Data, load_config
from patchmorph.training.gradients import add_gradients
from patchmorph.training.loop import learning_rate, train
from patchmorph.training.step import chain_losses
from patchmorph.training.subjects import Subject

CPU = torch.device("cpu")
SPACINGS = [12.0, 6.0]
MODEL = {
    "patch_size": 16,
    "spacings_mm": SPACINGS,
    "affine": {"name": "affine-encoder", "options": {"channels": [4, 8], "hidden": 8}},
    "dense": {"name": "unet", "options": {"encoder": [4, 8], "decoder": [8, 4]}},
}


@pytest.fixture(scope="module")
def images():
    shapes = [((75, 86, 70), AFFINES["LAS"]), ((80, 88, 72), AFFINES["RAS"])]
    return [smooth_image(grid_around(shape, linear * 2, (5, -3, 4))) for shape, linear in shapes]


@pytest.fixture(scope="module")
def subjects(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("subjects")
    for number, image in enumerate(images):
        save_image(image, folder / f"{number}.nii.gz")
    return [Subject(folder / f"{number}.nii.gz") for number in range(len(images))]


@pytest.fixture(scope="module")
def cohort(subjects):
    return Cohort(subjects, SPACINGS, Data(images=["unused"]), CPU)


def last_terms(model, cohort, drawn, config):
    return [terms for _, terms in chain_losses(model, cohort, drawn, config)][-1]


@pytest.fixture
def config_file(tmp_path, images):
    for number, image in enumerate(images):
        save_image(image, tmp_path / "images" / f"{number}.nii.gz")
    config = {
        "model": MODEL,
        "data": {"images": ["images/*.nii.gz"]},
        "optimization": {"steps": 6, "batch": 2, "warmup": 2},
        "run": {"output": "run", "log_every": 2, "checkpoint_every": 2},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def draw(same_person=1.0, batch=3, seed=0):
    return Draw.sample(2, batch, len(SPACINGS), same_person, torch.Generator().manual_seed(seed))


def test_the_truth_takes_the_moving_view_exactly_onto_the_fixed_view(cohort):
    """Two views of one person: moving(truth(x)) = fixed(x), interpolation included."""
    pair = augmented_pair(cohort, draw(), Augmentation(gamma=0, gain=0))
    points = Grid.centered((16, 16, 16), 8.0, pair.fixed_center).points_world()
    seen = pair.fixed.transform(points)
    fixed, moving = pair.fixed.sample(points, 6.0), pair.moving.sample(pair.truth(seen), 6.0)
    assert pair.known.tolist() == [1, 1, 1]
    assert fixed.std() > 0.1
    # Both are the same voxels interpolated at points that differ by rounding.
    torch.testing.assert_close(moving, fixed, atol=1e-4, rtol=0)


def test_augmentation_moves_by_what_it_says(cohort):
    none = Augmentation(
        rotation_deg=0, scale=0, anisotropy=0, shear=0, shift_mm=0, coarse_mm=0, fine_mm=0, mirror=False
    )
    points = Grid.centered((8, 8, 8), 10.0, cohort.centers_world[draw().fixed_index]).points_world()
    still = augmented_pair(cohort, draw(), none)
    torch.testing.assert_close(still.truth(still.fixed.transform(points)), points, atol=1e-4, rtol=0)
    shifted = augmented_pair(cohort, draw(), none.model_copy(update={"shift_mm": 10.0}))
    moved = shifted.truth(shifted.fixed.transform(points)) - points
    torch.testing.assert_close(moved, moved[:, :1, :1, :1].expand_as(moved), atol=1e-4, rtol=0)
    assert 1 < moved.norm(dim=-1).max() < 2 * 10 * 3**0.5


def test_a_step_reaches_every_parameter_and_is_a_function_of_its_draw(cohort, config_file):
    config = load_config(config_file)
    torch.manual_seed(0)
    model = PatchMorphModel(config.model)
    report = add_gradients(model, cohort, draw(0.5), config)
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    again = add_gradients(model, cohort, draw(0.5), config)
    assert torch.equal(again.losses, report.losses)
    assert report.means[report.names.index("loss")] == pytest.approx(report.losses.mean().item())
    other = add_gradients(model, cohort, draw(0.5, seed=1), config)
    assert not torch.equal(other.losses, report.losses)


def test_the_point_error_of_the_truth_counts_for_known_pairs_only(cohort, config_file):
    config = load_config(config_file)
    model = PatchMorphModel(config.model)
    same = draw(1.0)
    known = last_terms(model, cohort, same, config)
    unknown = last_terms(model, cohort, replace(same, moving_index=1 - same.fixed_index), config)
    assert (known["error_mm/1"] > 1).all()
    assert unknown["error_mm/1"].tolist() == [0, 0, 0]


def test_training_lowers_the_loss(cohort, config_file):
    config = load_config(config_file)
    torch.manual_seed(0)
    model = PatchMorphModel(config.model)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    losses = []
    for _ in range(25):  # one draw again and again: any working step can fit it
        optimizer.zero_grad()
        losses.append(add_gradients(model, cohort, draw(), config).losses.mean().item())
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_resume_gives_the_weights_of_an_uninterrupted_run(config_file):
    whole = load_config(config_file)
    train(whole, CPU)
    content = yaml.safe_load(config_file.read_text())
    content["run"]["output"] = "interrupted"
    content["run"]["minutes"] = 1e-9  # stops after every step
    config_file.write_text(yaml.safe_dump(content))
    interrupted = load_config(config_file)
    train(interrupted, CPU)
    folder = config_file.parent
    assert not (folder / "interrupted" / "model.safetensors").exists()
    while not (folder / "interrupted" / "model.safetensors").exists():
        train(interrupted, CPU, resume=True)
    expected, found = (load_file(folder / name / "model.safetensors") for name in ("run", "interrupted"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [2, 4, 6]
    assert {"loss", "similarity/affine", "error_mm/1", "steps_per_second"} <= log[0].keys()


def test_an_output_folder_is_not_overwritten_and_resume_needs_a_checkpoint(config_file):
    config = load_config(config_file)
    with pytest.raises(PatchMorphError, match="needs a checkpoint, got none"):
        train(config, CPU, resume=True)
    train(config, CPU)
    with pytest.raises(PatchMorphError, match="must be new, or --resume given"):
        train(config, CPU)


def test_the_learning_rate_warms_up_and_decays(config_file):
    config = load_config(config_file).optimization.model_copy(update={"steps": 1000, "warmup": 100})
    rates = [learning_rate(step, config) for step in (0, 99, 500, 1000)]
    assert rates[0] < rates[1] > rates[2] > rates[3]
    assert rates[3] == pytest.approx(0.03 * config.learning_rate)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"images": []}}, "must name one of images, manifest and bids, got none"),
        ({"optimisation": {}}, "optimisation: Extra inputs"),
        ({"model": {"spacings_mm": [1.0, 2.0]}}, "must decrease from coarse to fine"),
        ({"optimization": {"steps": -1}}, "optimization.steps"),
        ({"model": {"patch_size": 40}}, "model.patch_size: Input should be a multiple of 16"),
        ({"objective": {"similarity": "ssd"}}, "must be one of lncc, mse, got ssd"),
    ],
)
def test_mistakes_in_a_configuration_are_named(config_file, change, message):
    config_file.write_text(yaml.safe_dump(yaml.safe_load(config_file.read_text()) | change))
    with pytest.raises(PatchMorphError, match=message):
        load_config(config_file)


def test_missing_images_are_named(config_file):
    content = yaml.safe_load(config_file.read_text())
    content["data"]["images"] = ["nowhere/*.nii.gz"]
    config_file.write_text(yaml.safe_dump(content))
    before = set(config_file.parent.iterdir())
    with pytest.raises(PatchMorphError, match="got nothing for nowhere"):
        train(load_config(config_file), CPU)
    assert set(config_file.parent.iterdir()) == before
