import pytest
import torch
from safetensors.torch import save_file

from patchmorph.api import choose_device, load_model, packaged_models, save_model
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


def test_devices_are_checked():
    assert choose_device("cpu").type == "cpu"
    for name in ("gpu", "mps", "cuda:99"):
        with pytest.raises(PatchMorphError, match=f"device must be .*, got {name}"):
            choose_device(name)


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
