import itertools
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from patchmorph.networks import matching
from patchmorph.networks.matching import (
    local_correlation,
    plain_correlation,
    plain_warp,
    warp_features,
)
from patchmorph.networks.matching_cpu import block_correlation, row_warp

needs_kernels = pytest.mark.skipif(
    not torch.cuda.is_available() or find_spec("triton") is None, reason="kernels want CUDA and Triton"
)
SHAPE = (2, 5, 6, 4, 7)


def random(shape=SHAPE, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("radius", [1, 2])
def test_correlations_are_scalar_products_with_the_neighbours_in_order(radius):
    fixed, moving = random(), random().flip(0)
    correlation = local_correlation(fixed, moving, radius)
    offsets = list(itertools.product(range(-radius, radius + 1), repeat=3))
    assert correlation.shape == (2, len(offsets), 6, 4, 7)
    for k, offset in enumerate(offsets):
        for voxel in ((0, 0, 0), (3, 2, 4), (5, 3, 6)):
            there = [v + o for v, o in zip(voxel, offset, strict=True)]
            inside = all(0 <= t < n for t, n in zip(there, SHAPE[2:], strict=True))
            expected = (fixed[(..., *voxel)] * moving[(..., *there)]).sum(1) if inside else torch.zeros(2)
            torch.testing.assert_close(correlation[(slice(None), k, *voxel)], expected.double())


def test_a_shifted_map_is_found_at_its_shift():
    features = torch.nn.functional.normalize(random((1, 16, 8, 8, 8)), dim=1)
    moving = features.roll((1, 0, -1), (2, 3, 4))  # moving(x + shift) = fixed(x)
    inner = local_correlation(features, moving, 1)[..., 2:-2, 2:-2, 2:-2]
    found = list(itertools.product((-1, 0, 1), repeat=3)).index((1, 0, -1))
    assert (inner.argmax(1) == found).all()
    torch.testing.assert_close(inner[:, found], torch.ones_like(inner[:, found]))


def test_features_are_read_where_the_displacement_points():
    index = torch.stack(torch.meshgrid(*(torch.arange(n).double() for n in (6, 5, 7)), indexing="ij"))[None]
    displacement = random((1, 3, 6, 5, 7)).clamp(-1.5, 1.5)
    last = torch.tensor([5.0, 4.0, 6.0]).double().reshape(1, 3, 1, 1, 1)
    expected = (index + displacement).clamp(
        min=torch.zeros_like(last), max=last
    )  # the border's value outside
    torch.testing.assert_close(warp_features(index, displacement), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_keep_their_type(dtype):
    features = random(dtype=dtype)
    assert warp_features(features, torch.zeros(2, 3, 6, 4, 7)).dtype == dtype
    assert local_correlation(features, features, 1).dtype == dtype


def test_gradients_are_those_of_finite_differences():
    fixed, moving = random((1, 2, 3, 4, 3)).requires_grad_(), random((1, 2, 3, 3, 4)).mT.requires_grad_()
    displacement = (
        0.3 + 0.1 * random((1, 3, 3, 4, 3)).tanh()
    ).requires_grad_()  # away from the voxels' centres

    def matched(fixed, moving, displacement):
        return local_correlation(fixed, warp_features(moving, displacement), 1)

    assert torch.autograd.gradcheck(matched, (fixed, moving, displacement))


@needs_kernels
@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_kernels_do_what_the_plain_versions_do(radius, dtype, tolerance):
    shape = (3, 24, 18, 17, 20)
    given = [random(shape).cuda(), random(shape).flip(0).cuda(), 1.5 * random((3, 3, *shape[2:])).cuda()]
    given = [*(t.to(dtype) for t in given[:2]), given[2].float()]
    inputs = [t.clone().requires_grad_() for t in given]
    exact = [t.double().requires_grad_() for t in given]
    found = local_correlation(inputs[0], warp_features(inputs[1], inputs[2]), radius)
    wanted = matching.plain_correlation(exact[0], matching.plain_warp(exact[1], exact[2]), radius)
    weight = torch.randn_like(wanted)
    gradients = torch.autograd.grad((found.double() * weight).sum(), inputs)
    references = torch.autograd.grad((wanted * weight).sum(), exact)
    for a, b in zip((found, *gradients), (wanted, *references), strict=True):
        assert (a.double() - b).norm() < tolerance * b.norm()


@needs_kernels
def test_operators_fit_the_compiler():
    features = [torch.randn(2, 4, 5, 6, 8, device="cuda", requires_grad=True) for _ in range(2)]
    displacement = torch.randn(2, 4, 5, 6, 3, device="cuda", requires_grad=True)
    torch.library.opcheck(matching._correlate, (*features, 1))
    torch.library.opcheck(matching._warp, (features[0], displacement))


INTERPRETED = """
import torch
from patchmorph.networks import kernels, matching
last = lambda t: t.detach().movedim(1, -1).contiguous()
close = lambda a, b: torch.testing.assert_close(a.movedim(-1, 1), b.detach(), atol=1e-4, rtol=1e-4)
torch.manual_seed(0)
fixed, moving = (torch.randn(2, 6, 5, 4, 7, requires_grad=True) for _ in range(2))
flow = (2 * torch.randn(2, 3, 5, 4, 7)).requires_grad_()
for radius in (1, 2):
    wanted = matching.plain_correlation(fixed, moving, radius)
    gradient = torch.randn_like(wanted)
    of_fixed, of_moving = torch.autograd.grad(wanted, (fixed, moving), gradient)
    close(kernels.correlate(last(fixed), last(moving), radius), wanted)
    close(kernels.correlate_backward(last(gradient), last(moving), radius, False), of_fixed)
    close(kernels.correlate_backward(last(gradient), last(fixed), radius, True), of_moving)
wanted = matching.plain_warp(moving, flow)
gradient = torch.randn_like(wanted)
close(kernels.warp(last(moving), last(flow)), wanted)
found = kernels.warp_backward(last(gradient), last(moving), last(flow))
for a, b in zip(found, torch.autograd.grad(wanted, (moving, flow), gradient)):
    close(a, b)
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton comes with PyTorch for CUDA")
def test_kernels_are_right_in_tritons_interpreter():
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", INTERPRETED], env=environment, check=True)


@pytest.mark.parametrize("radius", [1, 2])
@pytest.mark.parametrize("sides", [(6, 4, 7), (4, 4, 8), (2, 2, 4), (1, 3, 1), (5, 5, 5)])
def test_block_products_are_the_plain_correlation(radius, sides):
    fixed, moving = random((2, 5, *sides)), random((2, 5, *sides)).flip(0)
    last = [features.contiguous(memory_format=torch.channels_last_3d) for features in (fixed, moving)]
    expected = plain_correlation(fixed, moving, radius)
    for pair in ((fixed, moving), last):
        torch.testing.assert_close(block_correlation(*pair, radius), expected)


@pytest.mark.parametrize("sides", [(6, 4, 7), (4, 4, 8), (1, 3, 1), (5, 5, 5)])
def test_sums_of_rows_are_the_plain_warp(sides):
    features = random((2, 5, *sides))
    displacement = 3 * random((2, 3, *sides))  # far beyond the border, too
    expected = plain_warp(features, displacement)
    torch.testing.assert_close(row_warp(features, displacement), expected)
    last = features.contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(row_warp(last, displacement), expected)


def test_features_on_a_cpu_are_matched_alike_with_and_without_gradients():
    fixed, moving = random(), random().flip(0)
    displacement = random((2, 3, 6, 4, 7))
    with torch.no_grad():
        without = local_correlation(fixed, warp_features(moving, displacement), 1)
    torch.testing.assert_close(local_correlation(fixed, warp_features(moving, displacement), 1), without)
    assert without.stride(1) == 1


@needs_kernels
def test_without_gradients_triton_is_not_loaded():
    code = (
        "import sys, torch; from patchmorph.networks.matching import *\n"
        "a = torch.rand(1, 8, 4, 4, 4).cuda()\n"
        "with torch.no_grad(): local_correlation(a, warp_features(a, a[:, :3]), 1)\n"
        "assert not any(name.split('.')[0] == 'triton' for name in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
