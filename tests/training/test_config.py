import pytest
import yaml

from patchmorph.errors import PatchMorphError
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
