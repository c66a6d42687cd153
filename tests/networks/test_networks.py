import pytest
import torch

from patchmorph.errors import PatchMorphError
from patchmorph.networks import registry
from patchmorph.networks.contract import VELOCITY_STRIDE, predict


@pytest.mark.parametrize("name", registry.DENSE)
@pytest.mark.parametrize("size", [32, 64])
def test_dense_networks_keep_the_contract(name, size):
    network = registry.build_dense(name, {})
    velocity = predict(network, torch.rand(2, 2, size, size, size))
    assert velocity.shape == (2, 3, *(size // VELOCITY_STRIDE,) * 3)
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
        registry.build_affine("affine-encoder", {}, 64),
    ):
        predict(network, torch.rand(1, 2, 64, 64, 64)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_unknown_networks_and_options_are_named():
    with pytest.raises(PatchMorphError, match="must be one of swin, unet or module:Class, got resnet"):
        registry.build_dense("resnet", {})
    with pytest.raises(PatchMorphError, match=r"options of network unet.*depth"):
        registry.build_dense("unet", {"depth": 3})
    with pytest.raises(PatchMorphError, match="as many positive numbers"):
        registry.build_dense("unet", {"encoder": [4, 8]})
