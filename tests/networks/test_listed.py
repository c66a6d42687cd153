"""Networks that a model file may name, and the options that it may give them."""

import inspect

import pytest
import torch
from torch import nn

from patchmorph.errors import PatchMorphError
from patchmorph.networks import registry
from patchmorph.networks.foreign import find_class
from patchmorph.networks.listed import OPTIONS, check_options
from patchmorph.networks.skeleton import WithoutWeights

OURS = {**registry.DENSE, **registry.AFFINE}
MONAI = [name for name in OPTIONS if ":" in name]
BOTH = {"in_channels": 2, "out_channels": 3}
NEEDED = {
    "AttentionUnet": {"channels": [8], "strides": [2]},
    "DynUNet": {"kernel_size": [3], "strides": [3], "upsample_kernel_size": [3]},
    "UNETR": {"img_size": 64},
    "UNet": {"channels": [8], "strides": [2]},
}
"""Options without which networks of MONAI cannot be built."""
TELLING = (
    "url",
    "path",
    "file",
    "weights",
    "pretrained",
    "model",
    "module",
    "layer",
    "device",
    "hub",
    "progress",
)
"""Words in names of options that lead out of a network."""


def test_all_our_networks_are_listed():
    assert OURS.keys() == {name for name in OPTIONS if ":" not in name}


@pytest.mark.parametrize("name", OPTIONS)
def test_listed_options_are_ones_that_the_network_takes(name):
    if ":" in name:
        pytest.importorskip("monai", reason="MONAI is an extra: pip install 'patchmorph[monai]'")
    taken = inspect.signature(OURS[name] if name in OURS else find_class(name)).parameters
    assert OPTIONS[name].model_fields.keys() <= taken.keys()
    if name in OURS:  # all but the size of patches, which is that of the model
        assert taken.keys() - OPTIONS[name].model_fields.keys() <= {"patch_size"}


@pytest.mark.parametrize("name", OPTIONS)
def test_no_listed_option_leads_out_of_the_network(name):
    names = set(OPTIONS[name].model_fields)
    allowed = {"dropout_path_rate"}  # a number
    assert not {option for option in names - allowed if any(word in option for word in TELLING)}


@pytest.mark.parametrize("name", registry.DENSE)
def test_defaults_and_packaged_options_are_listed(name):
    check_options(name, {}, "a.safetensors")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet", {"encoder": [32, 48, 64, 80], "decoder": [64, 48, 32, 24]}),
        ("swin", {"embedding": 96, "depths": [2, 2, 4], "window": 4, "decoder": 32}),
        ("pyramid", {"channels": [24, 32], "hidden": [32, 32], "radius": 2}),
        ("affine-encoder", {"channels": [16, 32, 48, 64, 96, 96, 96], "hidden": 96}),
        ("monai.networks.nets:SegResNet", {**BOTH, "norm": ["group", {"num_groups": 8}], "act": "RELU"}),
        ("monai.networks.nets:UNet", {**BOTH, "channels": [8], "strides": [], "kernel_size": [3, [3, 3, 3]]}),
    ],
)
def test_options_that_networks_use_are_accepted(name, options):
    check_options(name, options, "a.safetensors")


@pytest.mark.parametrize("name", MONAI)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "in_channels: Field required; out_channels: Field required"),
        ({**BOTH, "in_channels": 1}, "in_channels: Input should be 2"),
        ({**BOTH, "out_channels": 4}, "out_channels: Input should be 3"),
        ({**BOTH, "spatial_dims": 2}, "spatial_dims: Input should be 3"),
        ({**BOTH, "pretrained": True}, "pretrained: Extra inputs are not permitted"),
        ({**BOTH, "progress": False}, "progress: Extra inputs are not permitted"),
    ],
)
def test_networks_of_monai_take_pairs_and_give_velocities(name, options, message):
    more = NEEDED.get(name.rpartition(":")[2], {})
    with pytest.raises(PatchMorphError, match=f"options of network {name} must be .*{message}.* in a.saf"):
        check_options(name, more | options, "a.safetensors")


@pytest.mark.parametrize(
    "norm",
    [
        "torch.hub",
        "instance_nvfuser",
        "batch\n",
        ["batch"],
        ["batch", {"device": "cuda"}],
        ["os", {}],
        3,
        [["batch"], {}],
    ],
)
def test_names_of_layers_are_within_a_pattern(norm):
    with pytest.raises(PatchMorphError, match="must be ones that a file may give, got norm"):
        check_options("monai.networks.nets:SegResNet", {**BOTH, "norm": norm}, "a.safetensors")


@pytest.mark.parametrize("value", [True, 8.5, "8", [8], 0, -1, 1025, 10**30, float("nan"), None])
def test_numbers_are_whole_and_within_bounds(value):
    with pytest.raises(PatchMorphError, match="must be ones that a file may give, got decoder"):
        check_options("swin", {"decoder": value}, "a.safetensors")


LARGEST = {
    "unet": {"encoder": [1024] * 8, "decoder": [1024] * 8},
    "swin": {"embedding": 1024, "depths": [16] * 2, "window": 8, "decoder": 1024},
    "pyramid": {"channels": [1024] * 8, "hidden": [1024] * 8, "radius": 4},
    "affine-encoder": {"channels": [1024] * 16, "hidden": 1024},
}


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_networks_of_the_list_take_no_memory_without_weights(name):
    check_options(name, LARGEST[name], "a.safetensors")
    with WithoutWeights():
        if name in registry.AFFINE:
            network = registry.build_affine(name, LARGEST[name], 512)
        else:
            network = registry.build_dense(name, LARGEST[name])
    numbers = {True: 0, False: 0}
    for tensor in (*network.parameters(), *network.buffers()):
        numbers[tensor.is_meta] += tensor.numel()
    assert numbers[True] > 1e8
    assert numbers[False] < 1e7


def test_without_weights_shapes_are_right_and_computations_real():
    class Layer(nn.Linear):
        def __init__(self):
            super().__init__(3, 4)
            self.register_buffer("rates", torch.linspace(0, 1, 3))
            self.last = self.rates[-1].item()

    with WithoutWeights():
        layer = Layer()
    assert layer.weight.is_meta
    assert layer.weight.shape == (4, 3)
    assert layer.rates.tolist() == [0, 0.5, 1]
    assert layer.last == 1
    assert not nn.Linear(3, 4).weight.is_meta
