import pytest
import yaml

from patchmorph.catalogue import load_spec, save_model
from patchmorph.errors import PatchMorphError
from patchmorph.networks.model import ModelSpec, PatchMorphModel
from patchmorph.training.config import load_config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"images": []}}, "must name one of images, manifest and bids, got none"),
        ({"optimisation": {}}, "optimisation: Extra inputs"),
        ({"model": {"spacings_mm": [1.0, 2.0]}}, "must decrease from coarse to fine"),
        ({"optimization": {"steps": -1}}, "optimization.steps"),
        ({"model": {"patch_size": 40}}, "model.patch_size: Input should be a multiple of 16"),
        ({"data": {"images": ["a"], "bids": "b"}}, "must name one of .*, got images and bids"),
        ({"optimization": {"recompute": [5]}}, "must name stages below 2, got \\[5\\]"),
        (
            {"objective": {"similarity_options": {"window": 3}}},
            "options of lncc must be among radius, got window",
        ),
        ({"objective": {"similarity": "ssd"}}, "must be one of lncc, mse, mind, mi, got ssd"),
    ],
)
def test_mistakes_in_a_configuration_are_named(config_file, change, message):
    config_file.write_text(yaml.safe_dump(yaml.safe_load(config_file.read_text()) | change))
    with pytest.raises(PatchMorphError, match=message):
        load_config(config_file)


@pytest.fixture
def data_alone(config_file, content):
    """A configuration that names images and a folder, and nothing else."""
    config_file.write_text(yaml.safe_dump({"data": content["data"], "run": {"output": "run"}}))
    return config_file


def test_a_fine_tuned_model_is_as_the_one_it_starts_from(data_alone):
    config = load_config(data_alone, "t1-brain")
    assert config.model == load_spec("t1-brain")
    assert config.model.dense.name != load_config(data_alone).model.dense.name  # that by default
    assert config.run.weights == "t1-brain"
    assert config.optimization.steps == 1000
    assert config.optimization.learning_rate == 1e-4


@pytest.mark.parametrize("name", ["passes", "repeats"])
def test_what_is_configured_is_kept_where_a_model_is_fine_tuned(data_alone, change, name):
    change(model={"spacings_mm": [0.4, 0.2, 0.1], "reference_radius_mm": 6.0, name: [1, 1, 2]})
    config = load_config(change(optimization={"steps": 7}), "t1-brain")
    changed = {"spacings_mm": [0.4, 0.2, 0.1], "reference_radius_mm": 6.0, "passes": [1, 1, 2]}
    assert config.model == load_spec("t1-brain").model_copy(update=changed)
    assert (config.optimization.steps, config.optimization.learning_rate) == (7, 1e-4)


def test_a_model_file_to_fine_tune_is_found_from_the_working_directory(data_alone, monkeypatch, tmp_path):
    model = PatchMorphModel(ModelSpec(spacings_mm=[3.0]))
    (tmp_path / "other").mkdir()
    save_model(model, tmp_path / "other" / "model.safetensors")
    monkeypatch.chdir(tmp_path / "other")
    config = load_config(data_alone, "model.safetensors")
    assert config.model == model.spec
    assert config.run.weights == str(tmp_path / "other" / "model.safetensors")


@pytest.mark.parametrize(
    ("sections", "start", "message"),
    [
        ({"run": {"output": "run", "weights": "t1-brain"}}, "t1-brain", "run.weights must be left out"),
        ({}, "t2-brain", "model must be one of .*t1-brain.* or a file, got t2-brain"),
        ({"model": ["unet"]}, "t1-brain", "model: Input should be"),
        ({"model": {"depth": 3}}, "t1-brain", "model.depth: Extra inputs"),
        ({"run": None}, "t1-brain", "run.output: Field required"),
    ],
)
def test_mistakes_in_what_is_fine_tuned_are_named(data_alone, sections, start, message):
    data_alone.write_text(yaml.safe_dump(yaml.safe_load(data_alone.read_text()) | sections))
    with pytest.raises(PatchMorphError, match=message):
        load_config(data_alone, start)


def test_older_names_of_the_passes_are_read(change):
    """``repeats`` and ``affine_repeats``: the same configuration as with the names of today."""
    older = load_config(
        change(model={"repeats": [1, 3], "affine_repeats": 2}, optimization={"affine_repeats": 5})
    )
    assert older.model.passes == [1, 3]
    assert older.model.stage_scales == [0, 1, 1, 1]
    assert older.model.affine_passes == 2
    assert older.optimization.affine_passes == 5
    content = yaml.safe_load((older.folder / "config.yaml").read_text())
    for section, names in (("model", ("repeats", "affine_repeats")), ("optimization", ("affine_repeats",))):
        for name in names:
            content[section][name.replace("repeats", "passes")] = content[section].pop(name)
    (older.folder / "newer.yaml").write_text(yaml.safe_dump(content))
    assert load_config(older.folder / "newer.yaml") == older


@pytest.mark.parametrize("name", ["passes", "repeats"])
def test_there_is_one_number_of_passes_a_scale(change, name):
    with pytest.raises(PatchMorphError, match=r"passes must be one number a scale, got \[1, 2, 3\]"):
        load_config(change(model={name: [1, 2, 3]}))


def test_what_is_written_has_the_newer_names(change):
    model = load_config(change(model={"repeats": [1, 3], "affine_repeats": 2})).model
    dumped = model.model_dump()
    assert (dumped["passes"], dumped["affine_passes"]) == ([1, 3], 2)
    assert not {"repeats", "affine_repeats"} & dumped.keys()
