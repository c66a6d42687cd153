"""Recorded passes of networks give what the networks give."""

from contextlib import contextmanager
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from patchmorph.networks import replay
from patchmorph.networks.replay import FIRST_PASSES, Recording, replayed

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="recordings want CUDA")


class Static(nn.Module):
    is_static = True

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv3d(2, 3, 3, padding=1)
        self.passes = 0

    def forward(self, patches):
        self.passes += 1
        return self.layer(patches)


def test_networks_on_a_cpu_are_not_recorded():
    network = Static().eval()
    with torch.no_grad():
        for _ in range(FIRST_PASSES + 3):
            patches = torch.randn(1, 2, 4, 4, 4)
            assert torch.equal(replayed(network, patches), network.layer(patches))
    assert network.passes == FIRST_PASSES + 3
    assert network not in replay._passes


def test_a_pass_is_recorded_on_the_device_of_its_patches(monkeypatch):
    """Another GPU than the current one would compute at once, and its recording would be empty."""
    inside, other = [], torch.device("meta")

    @contextmanager
    def entered(name):
        inside.append(name)
        yield
        inside.remove(name)

    class Watched(Static):
        def forward(self, patches):
            assert inside == [("current", other), ("recording on", other)]
            return super().forward(patches)

    graph = MagicMock(spec=torch.cuda.CUDAGraph)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    monkeypatch.setattr(replay, "_stream", lambda device: device)
    monkeypatch.setattr(torch.cuda, "device", lambda device: entered(("current", device)))
    monkeypatch.setattr(torch.cuda, "graph", lambda *_, stream, **__: entered(("recording on", stream)))
    network = Watched().to(other)
    Recording.of(network, torch.empty(1, 2, 4, 4, 4, device=other))
    assert network.passes == 1


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_pass_on_the_second_gpu_is_that_of_the_network():
    network = Static().eval().to("cuda:1")
    with torch.no_grad():
        for _ in range(FIRST_PASSES + 3):
            patches = torch.randn(1, 2, 4, 4, 4, device="cuda:1")
            torch.testing.assert_close(replayed(network, patches), network.layer(patches))
    assert network.passes == FIRST_PASSES + 1


@needs_cuda
def test_a_recorded_pass_is_that_of_the_network():
    network = Static().eval().cuda()
    with torch.no_grad():
        outputs = []
        for k in range(FIRST_PASSES + 3):
            patches = torch.randn(1 + k % 2, 2, 4, 4, 4, device="cuda")
            outputs.append((replayed(network, patches), network.layer(patches)))
    for found, expected in outputs:  # a replay leaves the outputs of those before it alone
        torch.testing.assert_close(found, expected)


@needs_cuda
def test_passes_are_recorded_once_a_shape_and_follow_changed_and_moved_weights():
    network = Static().eval().cuda()
    patches = torch.randn(1, 2, 4, 4, 4, device="cuda")
    with torch.no_grad():
        for _ in range(FIRST_PASSES + 3):
            replayed(network, patches)
        assert network.passes == FIRST_PASSES + 1
        network.layer.weight.mul_(2)
        torch.testing.assert_close(replayed(network, patches), network.layer(patches))
        network.layer = nn.Conv3d(2, 3, 3, padding=1).cuda()
        torch.testing.assert_close(replayed(network, patches), network.layer(patches))


@needs_cuda
def test_gradients_and_networks_that_may_wait_are_not_recorded():
    network = Static().eval().cuda()
    patches = torch.randn(1, 2, 4, 4, 4, device="cuda")
    for _ in range(FIRST_PASSES + 3):
        replayed(network, patches).sum().backward()
    assert network.passes == FIRST_PASSES + 3
    network.is_static = False
    with torch.no_grad():
        for _ in range(FIRST_PASSES + 3):
            replayed(network, patches)
    assert network.passes == 2 * (FIRST_PASSES + 3)
