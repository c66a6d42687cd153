import pytest
import torch
from torch import nn
from torch.nn import functional

from patchmorph.errors import PatchMorphError
from patchmorph.networks import registry
from patchmorph.networks.blocks import blocks_as_channels
from patchmorph.networks.contract import predict
from patchmorph.networks.matching import warp_features
from patchmorph.networks.pyramid import Pyramid, directions, doubled

SMALL = {"channels": [8, 8, 8], "hidden": [8, 8, 8]}
SHIFT = 8
"""Patch voxels."""


def smooth_patches(count=1, size=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, 1, size // 4, size // 4, size // 4, generator=generator)
    return functional.interpolate(noise, size=(size,) * 3, mode="trilinear", align_corners=False)


def shifted_pair(size=32):
    """A fixed patch, and a moving one that shows the same `SHIFT` voxels further along the first axis."""
    wide = functional.interpolate(
        torch.rand(1, 1, 10, 8, 8, generator=torch.Generator().manual_seed(0)),
        size=(size + SHIFT, size, size),
        mode="trilinear",
        align_corners=False,
    )
    return torch.cat([wide[:, :, SHIFT:], wide[:, :, :size]], 1)


class Means(nn.Module):
    """An encoder whose features are the intensities of coarser patches."""

    def forward(self, patch):
        return [functional.avg_pool3d(patch, 2**level) for level in (1, 2, 3)]


class Told(nn.Module):
    """A decoder that knows the answer: all of it at the coarsest level, then nothing more."""

    def __init__(self, shift, seen):
        super().__init__()
        self.shift, self.seen = shift, seen

    def forward(self, fixed, moving, velocity, state):
        half = fixed.shape[-1] // 2  # what the moving patch shows, too
        inner = (..., slice(0, half), slice(None), slice(None))
        before, after = moving, warp_features(moving, velocity)
        self.seen.append([float((fixed - m)[inner].square().mean()) for m in (before, after)])
        residual = torch.zeros_like(velocity)
        if not state.shape[1]:
            residual[:, 0] = self.shift
        return residual, fixed


def test_levels_agree_on_units_and_on_which_way_to_warp():
    """What the coarsest level says, in its own voxels, brings finer features into place and is the answer."""
    network, seen = Pyramid(**SMALL), []
    network.encoder = Means()
    coarsest_voxel = 2**3
    network.decoders = nn.ModuleList(Told(SHIFT / coarsest_voxel, seen) for _ in range(3))
    with torch.no_grad():
        velocity = network(shifted_pair())
    torch.testing.assert_close(velocity[:, 0], torch.full_like(velocity[:, 0], SHIFT))
    assert velocity[:, 1:].abs().max() == 0
    for before, after in seen[1:]:
        assert after < 1e-6 < before


def test_pairs_of_a_batch_do_not_meet():
    torch.manual_seed(0)
    network = Pyramid(**SMALL).double()
    pairs = torch.rand(3, 2, 16, 16, 16, dtype=torch.float64)
    together = network(pairs)
    torch.testing.assert_close(network(pairs.flip(0)), together.flip(0))
    torch.testing.assert_close(network(pairs[1:2]), together[1:2])


@pytest.mark.parametrize("size", [48, 64])
def test_both_precisions_agree(size):
    torch.manual_seed(0)
    network = Pyramid()
    for decoder in network.decoders:
        nn.init.normal_(decoder.residual.weight, std=1e-2)
    pair = torch.cat([smooth_patches(1, size, 0), smooth_patches(1, size, 1)], 1)
    with torch.no_grad():
        exact = predict(network, pair, "fp32")
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(pair).float()
    assert (rough - exact).norm() < 0.1 * exact.norm()


def test_blocks_become_channels_and_back():
    patch = torch.arange(4.0**3).reshape(1, 1, 4, 4, 4)
    channels = blocks_as_channels(patch)
    assert channels.shape == (1, 8, 2, 2, 2)
    assert channels[0, :, 1, 0, 1].tolist() == patch[0, 0, 2:, :2, 2:].flatten().tolist()
    wide = doubled(patch)
    assert torch.equal(wide, functional.interpolate(patch, scale_factor=2))


def test_directions_have_length_one_and_flat_features_are_no_trouble():
    features = torch.randn(1, 6, 3, 3, 3, dtype=torch.float64)
    direction, length = directions(features)
    torch.testing.assert_close(direction.norm(dim=1), torch.ones(1, 3, 3, 3).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(length * 6**0.5 * direction, features)
    nothing = torch.zeros(1, 6, 2, 2, 2, requires_grad=True)
    directions(nothing)[0].sum().backward()
    assert torch.isfinite(nothing.grad).all()


@pytest.mark.parametrize(
    "options",
    [{"channels": [8, 8]}, {"hidden": [8, 8, 8, 0]}, {"radius": 0}],
    ids=["unequal", "empty", "radius"],
)
def test_impossible_pyramids_are_named(options):
    with pytest.raises(PatchMorphError, match="as many positive numbers and radius at least 1"):
        registry.build_dense("pyramid", options)


@torch.no_grad()
def test_a_patch_of_any_shape_gets_a_velocity_of_half_of_its_sides():
    network = Pyramid(**SMALL).eval()
    assert network.any_shape
    assert predict(network, torch.rand(2, 2, 32, 48, 16), "fp32").shape == (2, 3, 16, 24, 8)
