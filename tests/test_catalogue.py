"""Packaged models and model files."""

import os
import resource
import subprocess
import sys

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


def test_warming_up_runs_the_affine_and_one_dense_network_on_a_patch():
    model, seen = PatchMorphModel(SPEC), []
    for name, network in (("affine", model.affine), *enumerate(model.dense)):
        network.register_forward_pre_hook(lambda _, given, name=name: seen.append((name, given[0].shape)))
    model.warm_up()
    assert seen == [("affine", (1, 2, 16, 16, 16)), (0, (1, 2, 16, 16, 16))]


def test_files_that_are_no_models_are_refused(tmp_path):
    (tmp_path / "text.safetensors").write_text("no model")
    save_file({"a": torch.ones(2)}, tmp_path / "foreign.safetensors")
    write_tensors(tmp_path / "empty.safetensors", {"a": torch.ones(2)}, {"spec": SPEC.model_dump()})
    for name, message in (
        ("text", "must be a safetensors file"),
        ("foreign", "must carry PatchMorph's metadata"),
        ("empty", "must hold just the tensors of its networks, got no affine.encoder.0.0.bias in"),
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


CONV = {"name": "torch.nn:Conv3d", "options": {"in_channels": 2, "out_channels": 3, "kernel_size": 1}}


def write(path, tensors=None, **changes):
    """A file whose specification is not checked when it is written."""
    spec = {**SPEC.model_dump(), **changes}
    write_tensors(path, PatchMorphModel(SPEC).state_dict() if tensors is None else tensors, {"spec": spec})
    return path


def refused(path, message, **options):
    with pytest.raises(PatchMorphError, match=message) as error:
        load_model(path, "cpu", **options)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700
    assert str(path) in str(error.value)


def test_a_model_file_names_no_class_that_nobody_trusts(tmp_path, monkeypatch):
    model = PatchMorphModel(ModelSpec.model_validate({**SPEC.model_dump(), "dense": CONV}))
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    listed = (
        r"must name networks on our list, got torch\.nn:Conv3d in .* \(if you trust .*--trust torch\.nn:Conv"
    )
    refused(path, listed)
    for other in ("torch.nn:Conv2d", "torch.nn.modules.conv:Conv3d", "other:Net"):
        refused(path, listed, trust=[other])
    assert load_model(path, "cpu", trust=["torch.nn:Conv3d"]).spec == model.spec
    monkeypatch.setenv("PATCHMORPH_TRUST", "mine:Net, torch.nn:Conv3d")
    assert load_model(path, "cpu").spec == model.spec


@pytest.mark.parametrize(
    "name", ["torch", "monai", "torch.nn", "torch.nn:", ":Conv3d", "torch.nn:a:b", "*:*"]
)
def test_packages_are_not_trusted_as_a_whole(tmp_path, monkeypatch, name):
    path = write(tmp_path / "model.safetensors", dense=CONV)
    match = r"trust \(--trust, PATCHMORPH_TRUST\) must name MODULE:CLASS, got "
    with pytest.raises(PatchMorphError, match=match):
        load_model(path, "cpu", trust=[name])
    monkeypatch.setenv("PATCHMORPH_TRUST", f"mine:Net,{name}")
    with pytest.raises(PatchMorphError, match=match):
        load_model(path, "cpu")


HOSTILE = {
    "module": {"name": "hostile:Net"},
    "function": {"name": "os:system", "options": {"command": "true"}},
    "hub": {"name": "monai.networks.nets:TorchVisionFCModel", "options": {"pretrained": True}},
    "folder": {"name": "monai.networks.nets.hovernet:HoverNet", "options": {"pretrained_url": "hub"}},
    "bundle": {"name": "monai.bundle:ConfigParser", "options": {"config": {"x": "$__import__('os')"}}},
    "option": {
        "name": "monai.networks.nets:SegResNet",
        "options": {"in_channels": 2, "out_channels": 3, "spatial_dims": 3, "pretrained": "http://x"},
    },
    "layer": {
        "name": "monai.networks.nets:SegResNet",
        "options": {"in_channels": 2, "out_channels": 3, "spatial_dims": 3, "norm": ["hostile", {}]},
    },
}
GOOD = {
    "name": "monai.networks.nets:SegResNet",
    "options": {"in_channels": 2, "out_channels": 3, "spatial_dims": 3},
}


def test_nothing_is_imported_before_a_name_and_its_options_are_checked(tmp_path):
    """In another process, where importing a module of these names leaves a file."""
    flag, package = tmp_path / "imported", tmp_path / "path" / "monai" / "networks"
    package.mkdir(parents=True)
    text = f"open({str(flag)!r}, 'w').close()\n"
    for file in (tmp_path / "path" / "hostile.py", package.parent / "__init__.py", package / "__init__.py"):
        file.write_text(text)
    networks = {**HOSTILE, "z": GOOD}
    for kind, network in networks.items():
        for part in ("affine", "dense"):
            write(tmp_path / f"{kind}-{part}.safetensors", **{part: network})
    paths = os.pathsep.join([str(tmp_path / "path"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", LOADING, tmp_path, flag],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    kinds = sorted(f"{kind}-{part}" for kind in networks for part in ("affine", "dense"))
    # Only the last is on the list: this module is imported, and found to have no such network.
    assert done.stdout.splitlines() == [f"{kind} {kind.startswith('z-')}" for kind in kinds], done.stderr


LOADING = """
import sys
from pathlib import Path
from patchmorph import catalogue
from patchmorph.errors import PatchMorphError

for path in sorted(Path(sys.argv[1]).glob("*.safetensors")):
    try:
        catalogue.load_model(path, "cpu")
    except PatchMorphError:
        print(path.stem, Path(sys.argv[2]).exists())
"""


@pytest.mark.parametrize("kind", HOSTILE)
def test_files_that_would_run_code_of_others_are_one_clear_line(tmp_path, kind):
    message = {
        "option": r"options of network .*SegResNet must be ones that a file may give, got pretrained: Extra",
        "layer": r"options of network .*SegResNet must be ones that a file may give, got norm",
    }.get(kind, r"must name networks on our list, got .* \(if you trust its code: --trust ")
    refused(write(tmp_path / "model.safetensors", dense=HOSTILE[kind]), message)


MONAI = {
    "AttentionUnet": {"spatial_dims": 3, "channels": [4, 8], "strides": [2]},
    "BasicUNet": {"features": [4, 4, 8, 8, 16, 4], "act": ["LeakyReLU", {"negative_slope": 0.1}]},
    "DynUNet": {
        "spatial_dims": 3,
        "kernel_size": [3, 3, 3],
        "strides": [1, 2, [2, 2, 2]],
        "upsample_kernel_size": [2, 2],
        "filters": [4, 8, 16],
    },
    "SegResNet": {"init_filters": 8, "norm": ["GROUP", {"num_groups": 4}]},
    "SwinUNETR": {"feature_size": 12, "norm_name": "batch"},
    "UNETR": {"img_size": 32, "feature_size": 4, "hidden_size": 24, "mlp_dim": 48, "num_heads": 4},
    "UNet": {"spatial_dims": 3, "channels": [4, 8], "strides": [2], "norm": "batch", "num_res_units": 1},
}


@pytest.mark.parametrize("name", MONAI)
def test_networks_of_monai_on_the_list_load_without_trust(tmp_path, name):
    pytest.importorskip("monai", reason="MONAI is an extra: pip install 'patchmorph[monai]'")
    options = {"in_channels": 2, "out_channels": 3, **MONAI[name]}
    dense = {"name": f"monai.networks.nets:{name}", "options": options}
    spec = ModelSpec.model_validate(
        {**SPEC.model_dump(), "patch_size": 32, "spacings_mm": [2.0], "dense": dense}
    )
    model = PatchMorphModel(spec).eval()
    save_model(model, tmp_path / "model.safetensors")
    loaded = load_model(tmp_path / "model.safetensors", "cpu")
    assert {
        key: tensor.device.type for key, tensor in loaded.state_dict().items()
    }.keys() == model.state_dict().keys()
    pair = torch.rand(1, 2, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded.dense[0](pair), model.dense[0](pair))


HUGE = {
    "patch_size": ({"patch_size": 2**20}, "patch_size: Input should be less than or equal to 512"),
    "patch_size 0": ({"patch_size": 0}, "patch_size: Input should be greater than or equal to 16"),
    "spacings": (
        {"spacings_mm": [2.0**-k for k in range(9)]},
        "spacings_mm: List should have at most 8 items",
    ),
    "spacing": ({"spacings_mm": [4.0, 1e-9]}, "spacings_mm.1: Input should be greater than or equal to"),
    "spacing nan": ({"spacings_mm": [float("nan")]}, "spacings_mm.0: Input should be"),
    "spacing inf": (
        {"spacings_mm": [float("inf"), 2.0]},
        "spacings_mm.0: Input should be less than or equal to",
    ),
    "ratio": ({"spacings_mm": [4.0, 1e-3]}, "reference_radius_mm must be at most 4000 of the finest"),
    "radius": (
        {"reference_radius_mm": float("inf")},
        "reference_radius_mm: Input should be less than or equal",
    ),
    "passes": ({"passes": [1, 10**9]}, "passes.1: Input should be less than or equal to 32"),
    "repeats": ({"repeats": [1, 10**9], "passes": None}, "must hold a PatchMorph model"),
    "affine_passes": ({"affine_passes": 33}, "affine_passes: Input should be less than or equal to 32"),
    "integration": ({"integration_steps": 64}, "integration_steps: Input should be less than or equal to 12"),
    "overlap": ({"overlap": 0.9999}, "overlap: Input should be less than or equal to 0.9"),
    "overlap nan": ({"overlap": float("nan")}, "overlap: Input should be"),
    "smoothing": ({"smoothing": float("nan")}, "smoothing: Input should be"),
    "name": ({"dense": {"name": "a\nb\x1b[31m:c"}}, "dense.name: String should match pattern"),
    "many": ({str(key): key for key in range(1000)}, "1: Extra inputs are not permitted; .*; 997 more"),
    "width": (
        {"dense": {"name": "unet", "options": {"encoder": [2**20, 8], "decoder": [8, 4]}}},
        "encoder.0: Input",
    ),
    "depth": (
        {"dense": {"name": "unet", "options": {"encoder": [8] * 99, "decoder": [4] * 99}}},
        "encoder: List",
    ),
    "window": (
        {"dense": {"name": "swin", "options": {"window": 2**10}}},
        "window: Input should be less than",
    ),
    "radius of features": (
        {"dense": {"name": "pyramid", "options": {"radius": 50}}},
        "radius: Input should be less",
    ),
    "kind": (
        {"dense": {"name": "unet", "options": {"encoder": "abc"}}},
        "encoder: Input should be a valid list",
    ),
    "hidden": (
        {"affine": {"name": "affine-encoder", "options": {"hidden": 10**8}}},
        "hidden: Input should be",
    ),
    "unknown": ({"dense": {"name": "resnet"}}, "network must be one of pyramid, swin, unet or module:Class"),
    "no name": ({"dense": {"options": {}}}, "dense.name: Field required"),
}


@pytest.mark.parametrize("kind", HUGE)
def test_absurd_sizes_are_one_clear_line(tmp_path, kind):
    changes, message = HUGE[kind]
    path = write(tmp_path / "model.safetensors", **changes)
    with pytest.raises(PatchMorphError, match=message) as error:
        load_model(path, "cpu")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 700


def test_what_a_file_asks_for_within_the_bounds_takes_no_memory_before_its_tensors_are_compared(tmp_path):
    """Three networks of 2 GiB each, in a file of a few kB."""
    wide = {"name": "unet", "options": {"encoder": [1024] * 8, "decoder": [1024] * 8}}
    path = write(tmp_path / "model.safetensors", dense=wide, patch_size=512, spacings_mm=[4.0, 2.0, 1.0])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(path, r"must hold just the tensors of its networks, got no dense\.0\.down\.2")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def changed(**changes):
    """The weights of a model with some of them replaced, or left out."""
    tensors = PatchMorphModel(SPEC).state_dict()
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        tensors.pop(key, None)
        if tensor is not None:
            tensors[key] = tensor
    return tensors


BIAS = "dense__0__velocity__bias"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({BIAS: None}, r"just the tensors of its networks, got no dense\.0\.velocity\.bias in"),
        (
            {"dense__2__velocity__bias": torch.zeros(3)},
            r"just the tensors .*, got also dense\.2\.velocity\.bias in",
        ),
        ({BIAS: torch.zeros(4)}, r"velocity\.bias as floating-point \(3,\), got F32 \(4,\) in"),
        ({BIAS: torch.zeros(1, 3)}, r"velocity\.bias as floating-point \(3,\), got F32 \(1, 3\) in"),
        (
            {BIAS: torch.zeros(3, dtype=torch.int64)},
            r"velocity\.bias as floating-point \(3,\), got I64 \(3,\)",
        ),
        ({BIAS: torch.zeros(3).to(torch.float8_e4m3fn)}, r"velocity\.bias as floating-point \(3,\), got F8"),
        (
            {BIAS: torch.tensor([0, float("nan"), 1])},
            r"finite numbers, got 1 that are not in dense\.0\.velocity\.bias",
        ),
        (
            {BIAS: torch.tensor([0, float("inf"), 1])},
            r"finite numbers, got 1 that are not in dense\.0\.velocity\.bias",
        ),
        ({BIAS: torch.full((3,), -float("inf")).half()}, r"finite numbers, got 3 that are not in dense\.0"),
    ],
)
def test_tensors_must_be_those_of_the_networks_and_finite(tmp_path, changes, message):
    refused(write(tmp_path / "model.safetensors", changed(**changes)), message)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_truncated_files_are_one_clear_line(tmp_path, share):
    path = write(tmp_path / "model.safetensors")
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    refused(path, "model must be a safetensors file, got")


def test_networks_that_do_not_fit_the_patches_are_one_clear_line(tmp_path):
    """Six levels halve a patch of 16 voxels to none."""
    dense = {"name": "unet", "options": {"encoder": [4] * 6, "decoder": [4] * 6}}
    model = PatchMorphModel(ModelSpec.model_validate({**SPEC.model_dump(), "dense": dense}))
    save_model(model, tmp_path / "model.safetensors")
    with pytest.raises(
        PatchMorphError, match=r"network must take patches \[1, 2, 16, 16, 16\], got: "
    ) as error:
        load_model(tmp_path / "model.safetensors", "cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["t1-brain", "brain-any-contrast"])
def test_weights_are_those_of_the_file_in_float32_with_channels_last(name):
    model = load_model(name, "cpu")
    tensors, _ = read_tensors(packaged_models()[name])
    assert tensors.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, tensors[key].float())
        assert tensor.device.type == "cpu"
        if tensor.dim() == 5:
            assert tensor.is_contiguous(memory_format=torch.channels_last_3d)
    assert all(parameter.requires_grad for parameter in model.parameters())


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


@pytest.mark.parametrize("name", ["t1-brain", "brain-any-contrast"])
def test_packaged_models_are_what_their_files_say(name):
    """In the words of today, or in those of files written when passes were ``repeats``."""
    spec = load_model(name, "cpu").spec
    assert spec.passes is None
    assert spec.stage_scales == [0, 1, 2]
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
