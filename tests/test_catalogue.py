"""Packaged models and model files."""

import pytest
import torch
from safetensors.torch import save_file

from patchmorph import catalogue
from patchmorph.catalogue import (
    BRAIN_MASK,
    cached_model,
    load_brain_mask,
    load_model,
    packaged_models,
    save_model,
)
from patchmorph.errors import PatchMorphError
from patchmorph.io.tensors import read_tensors, write_tensors
from patchmorph.networks.model import ModelSpec, PatchMorphModel

SPEC = ModelSpec.model_validate(
    {
        "patch_size": 16,
        "spacings_mm": [4.0, 2.0],
        "affine": {"name": "affine-encoder", "options": {"channels": [4, 8], "hidden": 8}},
        "dense": {"name": "unet", "options": {"encoder": [4, 8], "decoder": [8, 4]}},
    }
)


@pytest.mark.parametrize("half", [False, True])
def test_models_survive_a_round_trip(tmp_path, half):
    model = PatchMorphModel(SPEC)
    save_model(model, tmp_path / "model.safetensors", half=half)
    loaded = load_model(tmp_path / "model.safetensors", "cpu")
    assert loaded.spec == SPEC
    for name, tensor in model.state_dict().items():
        expected = tensor.half().float() if half else tensor
        assert torch.equal(loaded.state_dict()[name], expected)


def test_files_that_are_no_models_are_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("no model")
    save_file({"a": torch.ones(2)}, tmp_path / "foreign.safetensors")
    write_tensors(tmp_path / "empty.safetensors", {"a": torch.ones(2)}, {"spec": SPEC.model_dump()})
    for name, message in (
        ("text", "must be a safetensors file"),
        ("foreign", "must carry PatchMorph's metadata"),
        ("empty", "must hold a PatchMorph model"),
        ("missing", "must be one of .* or a file, got"),
    ):
        with pytest.raises(PatchMorphError, match=message):
            load_model(tmp_path / f"{name}.safetensors", "cpu")


def test_packaged_models_are_small_and_open():
    models = packaged_models()
    assert "t1-brain" in models
    for name, path in models.items():
        assert path.stat().st_size <= 10e6
        assert read_tensors(path)[1]["spec"]
        assert path.with_suffix(".md").is_file(), f"{name} has no model card"
        load_model(name, "cpu")


def test_a_model_file_chooses_no_code_that_nobody_trusts(tmp_path, monkeypatch):
    dense = {"name": "torch.nn:Conv3d", "options": {"in_channels": 2, "out_channels": 3, "kernel_size": 1}}
    model = PatchMorphModel(ModelSpec.model_validate({**SPEC.model_dump(), "dense": dense}))
    save_model(model, tmp_path / "model.safetensors")
    with pytest.raises(PatchMorphError, match=r"must use networks of trusted packages, got torch.nn:Conv3d"):
        load_model(tmp_path / "model.safetensors", "cpu")
    monkeypatch.setenv("PATCHMORPH_TRUST", "mine,torch")
    assert load_model(tmp_path / "model.safetensors", "cpu").spec == model.spec


OLDER = {"passes": "repeats", "affine_passes": "affine_repeats"}


def test_model_files_with_the_older_names_of_the_passes_are_read(tmp_path):
    spec = SPEC.model_copy(update={"passes": [1, 3], "affine_passes": 2})
    model = PatchMorphModel(spec)
    stored = {OLDER.get(name, name): value for name, value in spec.model_dump().items()}
    assert (stored["repeats"], stored["affine_repeats"]) == ([1, 3], 2)
    write_tensors(tmp_path / "older.safetensors", model.state_dict(), {"spec": stored})
    loaded = load_model(tmp_path / "older.safetensors", "cpu")
    assert loaded.spec == spec
    assert loaded.spec.stage_scales == [0, 1, 1, 1]
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("name", "passes", "scales"),
    [("t1-brain", None, [0, 1, 2]), ("brain-any-contrast", [1, 2, 2], [0, 1, 1, 2, 2])],
)
def test_packaged_models_have_the_passes_that_their_files_say(name, passes, scales):
    """Their files were written when passes were ``repeats``; those of the affine stage are 4."""
    spec = load_model(name, "cpu").spec
    assert spec.passes == passes
    assert spec.stage_scales == scales
    assert spec.affine_passes == 4
    stored = read_tensors(packaged_models()[name])[1]["spec"]
    newer = {value: key for key, value in OLDER.items()}
    assert {newer.get(key, key): value for key, value in stored.items()}.items() <= spec.model_dump().items()


def test_models_are_evaluated_and_stay_in_memory_by_name():
    model = load_model("t1-brain", "cpu")
    assert not model.training
    assert model.device == torch.device("cpu")
    assert load_model("t1-brain", "cpu") is not model
    assert cached_model("t1-brain", "cpu") is cached_model("t1-brain", "cpu")


def test_the_network_that_finds_the_brain_has_the_weights_of_its_file():
    network = load_brain_mask(torch.device("cpu"))
    tensors, _ = read_tensors(catalogue._folder() / f"{BRAIN_MASK}.safetensors")
    assert tensors.keys() == network.state_dict().keys()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, tensors[name].float())
    assert not network.training
    assert load_brain_mask(torch.device("cpu")) is network
    assert BRAIN_MASK not in packaged_models()
