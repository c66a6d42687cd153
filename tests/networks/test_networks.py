import itertools

import pytest
import torch
from torch import nn

from patchmorph.errors import PatchMorphError
from patchmorph.networks import registry
from patchmorph.networks.blocks import set_recompute
from patchmorph.networks.brain_mask import BrainMask
from patchmorph.networks.contract import VELOCITY_STRIDE, check_answer, predict
from patchmorph.networks.devices import choose_device
from patchmorph.networks.swin import Swin, SwinLayer

MONAI = {
    "monai.networks.nets:SegResNet": {"in_channels": 2, "out_channels": 3, "init_filters": 8},
    "monai.networks.nets:SwinUNETR": {"in_channels": 2, "out_channels": 3, "feature_size": 12},
}


@pytest.mark.parametrize("name", registry.DENSE)
@pytest.mark.parametrize(("size", "count"), [(32, 2), (64, 1), (96, 1)])
def test_dense_networks_keep_the_contract(name, size, count):
    network = registry.build_dense(name, {})
    velocity = predict(network, torch.rand(count, 2, size, size, size))
    assert velocity.shape == (count, 3, *(size // VELOCITY_STRIDE,) * 3)
    assert velocity.dtype == torch.float32
    assert 0 < velocity.abs().max() < 0.5  # starts near "nothing moves", in patch voxels


@pytest.mark.parametrize("name", registry.AFFINE)
def test_affine_networks_keep_the_contract(name):
    network = registry.build_affine(name, {}, 32)
    generator = predict(network, torch.rand(2, 2, 32, 32, 32))
    assert generator.shape == (2, 4, 4)
    assert generator[:, 3].abs().max() == 0
    assert 0 < generator.abs().max() < 0.1


def test_every_parameter_of_a_network_gets_a_gradient():
    for network in (
        registry.build_dense("unet", {}),
        registry.build_dense("swin", {}),
        registry.build_dense("pyramid", {}),
        registry.build_affine("affine-encoder", {}, 32),
    ):
        predict(network, torch.rand(1, 2, 32, 32, 32)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_unknown_networks_and_options_are_named():
    with pytest.raises(
        PatchMorphError, match="must be one of pyramid, swin, unet or module:Class, got resnet"
    ):
        registry.build_dense("resnet", {})
    with pytest.raises(PatchMorphError, match=r"options of network unet.*depth"):
        registry.build_dense("unet", {"depth": 3})
    with pytest.raises(PatchMorphError, match="as many positive numbers"):
        registry.build_dense("unet", {"encoder": [4, 8]})


class HalfResolution(nn.Conv3d):
    """The smallest network that keeps the contract."""

    def __init__(self, outputs: int = 3):
        super().__init__(2, outputs, 2, stride=2)


@pytest.mark.parametrize("path", MONAI)
def test_networks_of_monai_plug_in(path):
    pytest.importorskip("monai", reason="MONAI is an extra: pip install 'patchmorph[monai]'")
    network = registry.build_dense(path, MONAI[path])
    velocity = predict(network, torch.rand(1, 2, 64, 64, 64))
    assert velocity.shape == (1, 3, 32, 32, 32)
    velocity.square().sum().backward()
    assert 0 < velocity.abs().max() < 0.5
    first = next(network.network.parameters())
    assert first.grad.abs().max() > 0


def test_any_module_plugs_in_by_its_import_path():
    network = registry.build_dense(f"{__name__}:HalfResolution", {})
    assert predict(network, torch.rand(2, 2, 16, 16, 16)).shape == (2, 3, 8, 8, 8)


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("nowhere.to_be_found:Net", {}, "must be importable as module:Class, got nowhere.to_be_found:Net"),
        ("torch.nn:Nothing", {}, "must be importable as module:Class, got torch.nn:Nothing"),
        ("os:system", {"command": "true"}, "must be a torch.nn.Module, got os:system"),
        ("torch.nn:Conv3d", {"colour": 1}, "options of network torch.nn:Conv3d must be ones that it takes"),
    ],
)
def test_import_paths_that_are_no_networks_are_refused(path, options, message):
    with pytest.raises(PatchMorphError, match=message):
        registry.build_dense(path, options)


def test_a_foreign_network_of_another_shape_is_named():
    network = registry.build_dense(f"{__name__}:HalfResolution", {"outputs": 5})
    with pytest.raises(PatchMorphError, match=r"three channels at full or half resolution, got shape \(1, 5"):
        predict(network, torch.rand(1, 2, 16, 16, 16))


@pytest.mark.parametrize("name", registry.DENSE)
def test_recomputing_changes_neither_answer_nor_gradient(name):
    torch.manual_seed(0)
    network = registry.build_dense(name, {})
    pair = torch.rand(1, 2, 32, 32, 32)
    kept, gradients = [], []
    for recompute in (False, True):
        set_recompute(network, recompute)
        network.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept[-1].append(t.numel()) or t, lambda t: t):
            kept.append([])
            predict(network, pair).square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    # The same operations on the same numbers.
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-7)
    assert sum(kept[1]) < 0.7 * sum(kept[0])


def test_shifted_windows_keep_the_ends_of_the_volume_apart():
    """A token may see its neighbours across a window's border, but not across the volume's."""
    torch.manual_seed(0)
    layer = SwinLayer(32, window=4, shifted=True)
    tokens = torch.rand(1, 12, 12, 12, 32)
    changed = tokens.clone()
    changed[:, 0] = torch.rand(12, 12, 32)
    moved = (layer(changed) - layer(tokens)).abs().amax((0, 2, 3, 4))
    assert (moved[:2] > 1e-4).all()  # after the shift the first window of an axis holds two tokens
    assert moved[2:].max() == 0


def test_padding_of_windows_does_not_reach_the_tokens():
    torch.manual_seed(0)
    layer = SwinLayer(32, window=4, shifted=False)
    tokens = torch.rand(1, 4, 4, 6, 32)
    alone = layer(tokens[..., :4, :])
    # The first window is whole; the second is half padding and must not change it.
    torch.testing.assert_close(layer(tokens)[..., :4, :], alone, atol=1e-5, rtol=0)
    # Nor is the half-empty window led by its padding: tokens all alike attend to themselves.
    even = torch.ones(1, 4, 4, 6, 32) * torch.rand(32)
    torch.testing.assert_close(layer(even)[..., 4:, :], layer(even)[..., :2, :], atol=1e-5, rtol=0)


def test_the_swin_is_of_a_transformers_size():
    assert sum(p.numel() for p in Swin().parameters()) > 10e6


def test_impossible_transformers_are_named():
    with pytest.raises(PatchMorphError, match="embedding must be a multiple of 32"):
        registry.build_dense("swin", {"embedding": 50})


class Dropping(nn.Sequential):
    """Keeps the contract, but never does the same twice."""

    def __init__(self):
        super().__init__(nn.Conv3d(2, 3, 2, stride=2), nn.Dropout(0.5))


def test_layers_that_a_second_run_would_change_are_not_recomputed():
    network = registry.build_dense(f"{__name__}:Dropping", {})
    with pytest.raises(PatchMorphError, match="must do the same twice, got a layer Dropout"):
        set_recompute(network, True)
    set_recompute(network, False)


@pytest.mark.parametrize(
    ("network", "affine", "message"),
    [
        (nn.Conv3d(2, 3, 1), False, r"must answer \[1, 3, 8, 8, 8\], got \[1, 3, 16, 16, 16\]"),
        (nn.Conv3d(2, 3, 1), True, r"must answer \[1, 4, 4\]"),
        (nn.Conv3d(1, 3, 1), False, "must take patches"),
    ],
)
def test_the_contract_is_checked(network, affine, message):
    with pytest.raises(PatchMorphError, match=message):
        check_answer(network, 16, affine)


class Recording(nn.Conv3d):
    """Keeps what it was given, and answers in bfloat16, as under autocast on a processor that has it."""

    def __init__(self):
        super().__init__(2, 3, 2, stride=2)
        self.seen = []

    def forward(self, pair):
        self.seen.append((pair, torch.is_autocast_enabled("cpu")))
        return super().forward(pair).bfloat16()


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_answers_are_float32_whatever_a_network_computes_in(precision):
    network = Recording()
    pair = torch.rand(1, 2, 8, 8, 8)
    with torch.no_grad():
        answer = predict(network, pair, precision)
    assert answer.dtype == torch.float32
    ((seen, half),) = network.seen
    assert torch.equal(seen, pair)
    assert not (half and precision == "fp32")


def test_training_on_a_processor_is_in_float32():
    """Processors compute in bfloat16 for inference only (docs/decisions/004)."""
    network = Recording()
    predict(network, torch.rand(1, 2, 8, 8, 8), "bf16").sum().backward()
    assert network.seen[0][1] is False
    assert network.weight.grad.abs().max() > 0


def test_the_twelve_numbers_of_the_affine_head_are_rows_then_a_shift():
    """By hand: the packaged weights were trained with this layout and these scales."""
    network = registry.build_affine("affine-encoder", {"channels": [4, 8], "hidden": 8}, 16)
    nn.init.zeros_(network.generator.weight)
    network.generator.bias.data = torch.arange(1.0, 13.0)
    generator = predict(network, torch.rand(2, 2, 16, 16, 16))
    expected = torch.tensor(
        [[0.2, 0.4, 0.6, 50.0], [0.8, 1.0, 1.2, 55.0], [1.4, 1.6, 1.8, 60.0], [0.0, 0.0, 0.0, 0.0]]
    )
    torch.testing.assert_close(generator, expected.expand(2, 4, 4))


@pytest.mark.parametrize("name", ["unet", "swin"])
def test_dense_networks_depend_on_the_order_of_channels_and_on_no_other_entry(name):
    torch.manual_seed(0)
    network = registry.build_dense(name, {})
    pairs = torch.rand(2, 2, 32, 32, 32)
    with torch.no_grad():
        answer = predict(network, pairs, "fp32")
        swapped = predict(network, pairs.flip(1), "fp32")
        alone = predict(network, pairs[1:], "fp32")
    assert (answer - swapped).abs().max() > 1e-4
    torch.testing.assert_close(alone, answer[1:], atol=1e-5, rtol=0)
    assert (answer[0] - answer[1]).abs().max() > 1e-4


def test_a_foreign_network_at_full_resolution_is_averaged_over_blocks():
    """By hand: the mean of 2³ voxels, times the gain."""
    network = registry.build_dense(
        "torch.nn:Conv3d", {"in_channels": 2, "out_channels": 3, "kernel_size": 1, "bias": False}
    )
    pair = torch.rand(1, 2, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    weight = next(network.network.parameters())[:, :, 0, 0, 0]
    full = torch.einsum("oc,bcxyz->boxyz", weight, pair)
    blocks = full.reshape(1, 3, 4, 2, 4, 2, 4, 2).mean((3, 5, 7))
    torch.testing.assert_close(predict(network, pair), 0.05 * blocks)


def test_a_network_is_checked_as_it_is_used():
    """Not as in training: dropout and statistics of a batch are for that alone."""
    network = nn.Sequential(nn.Conv3d(2, 3, 2, stride=2), nn.BatchNorm3d(3))
    check_answer(network, 16, affine=False)
    assert not network.training
    assert network[1].num_batches_tracked == 0


def test_the_brain_mask_takes_and_gives_blocks_of_eight_voxels_in_one_order():
    """By hand: channel 4 x + 2 y + z of a block; the packaged weights were trained so."""
    network = BrainMask().eval()
    seen = []
    network.stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    nn.init.zeros_(network.answer.weight)
    network.answer.bias.data = torch.arange(8.0)
    patch = torch.rand(1, 1, 16, 16, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answer = network(patch)
    assert answer.shape == patch.shape
    assert seen[0].shape == (1, 8, 8, 8, 16)
    for channel, (x, y, z) in enumerate(itertools.product((0, 1), repeat=3)):
        block = (0, 0, slice(x, None, 2), slice(y, None, 2), slice(z, None, 2))
        assert (answer[block] == channel).all()
        assert torch.equal(seen[0][0, channel], patch[block])


def test_skip_connections_reach_the_answer():
    """Every channel that comes into a block on the way up, from below or across, has a part in the answer."""
    torch.manual_seed(0)
    network = registry.build_dense("unet", {"encoder": [8, 8, 8], "decoder": [8, 8, 8]})
    predict(network, torch.rand(1, 2, 16, 16, 16)).square().sum().backward()
    for block in network.up:
        weight = next(block.parameters())
        assert weight.shape[1] == 16
        assert (weight.grad.abs().amax((0, 2, 3, 4)) > 0).all()


def test_devices_are_checked():
    assert choose_device("cpu").type == "cpu"
    for name in ("gpu", "mps", "cuda:99"):
        with pytest.raises(PatchMorphError, match=f"device must be .*, got {name}"):
            choose_device(name)
