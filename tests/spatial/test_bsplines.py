"""Splines have the values that SciPy's have, interpolate, are smooth, and keep NaN."""

import functools

import numpy as np
import pytest
import torch
from scipy import interpolate, ndimage

from patchmorph.spatial import bsplines
from patchmorph.spatial.bsplines import (
    bspline_weights,
    mirrored,
    nearest_linear,
    nearest_spline,
    sample_spline,
    spline_coefficients,
    to_nearest_spline,
)
from patchmorph.spatial.sampling import sample_cubic

NEAREST_SPLINES = [functools.partial(nearest_spline, degree=degree) for degree in (3, 5)]
SHAPES = [(7, 9, 11), (1, 5, 2), (3, 2, 1), (30, 8, 21)]


def random(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def scipy_values(data, points):
    """SciPy's splines of each channel, float64, at points ``[n, 3]``."""
    where = points.double().T.numpy()
    found = [
        ndimage.map_coordinates(channel.double().numpy(), where, order=3, mode="mirror") for channel in data
    ]
    return torch.from_numpy(np.stack(found)).float()


@pytest.mark.parametrize("shape", SHAPES)
def test_coefficients_are_those_of_scipy(shape):
    data = random(1, 2, *shape)
    expected = np.stack([ndimage.spline_filter(channel.numpy(), mode="mirror") for channel in data[0]])
    np.testing.assert_allclose(spline_coefficients(data)[0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float32])
def test_numbers_of_every_type_have_coefficients(dtype):
    data = (random(1, 1, 5, 6, 7) * 200).to(dtype)
    expected = ndimage.spline_filter(data[0, 0].numpy(), mode="mirror")
    before = data.clone()
    np.testing.assert_allclose(spline_coefficients(data)[0, 0].numpy(), expected, rtol=1e-6, atol=1e-4)
    assert torch.equal(data, before)


@pytest.mark.parametrize("degree", [3, 5])
@pytest.mark.parametrize("shape", [(7, 9, 11), (30, 8, 21), (4, 3, 5)])
def test_splines_of_both_degrees_are_those_of_scipy(shape, degree):
    data, points = random(1, 2, *shape), random(1, 200, 3, seed=1) * (torch.tensor(shape) - 1)
    where = points[0].double().T.numpy()
    options = {"order": degree, "mode": "mirror", "prefilter": False}
    expected = [ndimage.map_coordinates(channel.double().numpy(), where, **options) for channel in data[0]]
    found = sample_spline(data, points, degree=degree)[0]
    np.testing.assert_allclose(found.numpy(), np.stack(expected), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_those_of_scipy(shape, monkeypatch):
    data, points = random(1, 2, *shape), random(1, 5, 40, 3, seed=1) * (torch.tensor(shape) - 1)
    expected = scipy_values(data[0], points.reshape(-1, 3)).reshape(1, 2, 5, 40)
    coefficients = spline_coefficients(data)
    torch.testing.assert_close(sample_spline(coefficients, points), expected, atol=1e-5, rtol=0)
    monkeypatch.setattr(bsplines, "POINTS", 64)  # no whole number of chunks
    torch.testing.assert_close(sample_spline(coefficients, points), expected, atol=1e-5, rtol=0)


def test_voxels_keep_their_values_up_to_the_border_and_beyond_it():
    data = random(1, 3, 4, 5, 6)
    axes = [torch.arange(-2.0, n + 2) for n in data.shape[2:]]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)[None]
    nearest = [axis.clamp(0, n - 1).long() for axis, n in zip(axes, data.shape[2:], strict=True)]
    expected = data[:, :, nearest[0]][:, :, :, nearest[1]][..., nearest[2]]
    torch.testing.assert_close(sample_spline(spline_coefficients(data), points), expected, atol=1e-5, rtol=0)


def test_a_cubic_polynomial_is_reproduced_away_from_the_border():
    """The mirror bends it at the border; each voxel further in has 0.27 times as much of that."""
    index = torch.arange(40.0)
    line = ((index - 20) / 10) ** 3
    coefficients = spline_coefficients(line.reshape(1, 1, 40, 1, 1))
    points = torch.zeros(1, 100, 3)
    points[0, :, 0] = 14 + 12 * random(100)
    expected = ((points[..., 0] - 20) / 10) ** 3
    torch.testing.assert_close(sample_spline(coefficients, points)[:, 0], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("degree", "at_a_voxel", "half_way"),
    [
        (3, (8 / 48, 32 / 48, 8 / 48, 0), (1 / 48, 23 / 48, 23 / 48, 1 / 48)),
        (5, (1 / 120, 26 / 120, 66 / 120, 26 / 120, 1 / 120, 0), (1 / 3840, 237 / 3840, 1682 / 3840)),
    ],
)
def test_weights_are_those_of_b_splines_and_sum_to_one(degree, at_a_voxel, half_way):
    weights = bspline_weights(torch.tensor([0.0, 0.5, 0.25]), degree)
    torch.testing.assert_close(weights[:, 0], torch.tensor(at_a_voxel))
    torch.testing.assert_close(weights[: len(half_way), 1], torch.tensor(half_way))
    torch.testing.assert_close(weights.sum(0), torch.ones(3))


def test_indices_are_mirrored_at_the_outermost_voxels():
    assert mirrored(torch.arange(-1, 6), 4).tolist() == [1, 0, 1, 2, 3, 2, 1]
    assert mirrored(torch.arange(-1, 3), 1).tolist() == [0, 0, 0, 0]


def test_points_that_are_not_numbers_stay_so_and_spoil_no_others():
    coefficients, points = random(1, 2, 6, 6, 6), random(1, 50, 3) * 5
    expected = sample_spline(coefficients, points)
    points[0, 7, 1] = torch.nan
    found = sample_spline(coefficients, points)
    assert found[0, :, 7].isnan().all()
    others = torch.arange(50) != 7
    assert torch.equal(found[..., others], expected[..., others])
    assert sample_spline(coefficients, torch.full((1, 2, 3), torch.nan)).isnan().all()
    assert sample_spline(coefficients, torch.zeros(1, 0, 3)).shape == (1, 2, 0)


@pytest.mark.parametrize(("arrays", "of_points"), [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_batches_of_splines_broadcast(arrays, of_points):
    coefficients, points = random(arrays, 2, 4, 5, 6), random(of_points, 7, 2, 3) * 3
    values = sample_spline(coefficients, points)
    assert values.shape == (max(arrays, of_points), 2, 7, 2)
    for entry, value in enumerate(values):
        alone = sample_spline(coefficients[entry % arrays][None], points[entry % of_points][None])
        torch.testing.assert_close(value, alone[0])


def test_points_of_the_world_are_mapped_to_voxels_first():
    coefficients, points = random(1, 1, 6, 7, 8), random(1, 30, 3) * 4
    to_voxel = torch.diag(torch.tensor([0.5, 2.0, 1.0, 1], dtype=torch.float64))[None]
    to_voxel[0, 0, 3] = 1
    by_hand = points * torch.tensor([0.5, 2, 1]) + torch.tensor([1.0, 0, 0])
    found = sample_spline(coefficients, points, to_voxel)
    torch.testing.assert_close(found, sample_spline(coefficients, by_hand))


def test_images_have_the_background_beyond_their_outer_faces():
    coefficients = spline_coefficients(random(1, 1, 5, 5, 5))
    points = torch.tensor([[[-0.6, 2, 2], [-0.4, 2, 2], [0.0, 2, 2], [2, 4.4, 2], [2, 4.6, 2]]])
    found = sample_cubic(coefficients, points, -7)[0, 0]
    assert found[0] == found[4] == -7
    torch.testing.assert_close(found[1], found[2])
    assert sample_cubic(coefficients, points, float("nan"))[0, 0, 0].isnan()


@pytest.mark.parametrize("degree", [3, 5])
def test_odd_ends_continue_straight_on(degree):
    """By hand: c[-k] = 2 c[0] - c[k], so the spline has its first coefficient as value at its first voxel."""
    data, points = random(1, 2, 5, 6, 7), random(1, 200, 3, seed=1) * torch.tensor([4.0, 5, 6])
    padded = data
    for axis in (2, 3, 4):
        count = padded.shape[axis]
        third, second, first = (padded.narrow(axis, k, 1) for k in (2, 1, 0))
        last, other, before = (padded.narrow(axis, count - k, 1) for k in (1, 2, 3))
        ahead, behind = (2 * first - third, 2 * first - second), (2 * last - other, 2 * last - before)
        padded = torch.cat([*ahead, padded, *behind], dim=axis)
    expected = sample_spline(padded, points + 2, degree=degree)
    found = sample_spline(data, points, ends="odd", degree=degree)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    corners = torch.tensor([[[0.0, 0, 0], [4, 5, 6]]])
    at_corners = torch.stack([data[..., 0, 0, 0], data[..., -1, -1, -1]], dim=-1)
    torch.testing.assert_close(sample_spline(data, corners, ends="odd", degree=degree), at_corners)


def line_of(values, kernel, points):
    """Sums of shifted kernels with heights ``values`` along a line of voxels."""
    apart = points[:, None] - torch.arange(len(values))
    return kernel(apart) @ values


def hat(x):
    return (1 - x.abs()).clamp(min=0)


def bump(x, degree=3):
    """The B-spline, by SciPy."""
    knots = np.arange(degree + 2) - (degree + 1) / 2
    spline = interpolate.BSpline.basis_element(knots, extrapolate=False)
    return torch.from_numpy(np.nan_to_num(spline(x.numpy())))


def least_squares(values, kernel, target):
    """Heights of kernels that are nearest to another function, by brute force on fine points."""
    points = torch.linspace(-4, len(values) + 3, 80 * (len(values) + 7) + 1, dtype=torch.float64)
    apart = points[:, None] - torch.arange(len(values))
    return torch.linalg.lstsq(kernel(apart), line_of(values, target, points)[:, None]).solution[:, 0]


def in_the_middle(count=24):
    values = torch.zeros(count, dtype=torch.float64)
    values[count // 2 - 2 : count // 2 + 2] = torch.tensor([1.0, -0.5, 2, 0.3], dtype=torch.float64)
    return values


@pytest.mark.parametrize("degree", [3, 5])
def test_the_nearest_spline_is_that_of_least_squares(degree):
    values = in_the_middle(48)
    expected = least_squares(values, functools.partial(bump, degree=degree), hat)
    found = nearest_spline(values.reshape(1, 1, -1, 1, 1), degree)[0, 0, :, 0, 0]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert (expected - values).abs().max() > 0.1


def test_the_nearest_linear_interpolation_is_that_of_least_squares():
    coefficients = in_the_middle()
    expected = least_squares(coefficients, hat, bump)
    values = torch.conv1d(coefficients[None, None], torch.tensor([[[1, 4, 1]]]).double() / 6, padding=1)
    found = nearest_linear(values.reshape(1, 1, -1, 1, 1))[0, 0, :, 0, 0]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    assert (expected - values[0, 0]).abs().max() > 0.05


@pytest.mark.parametrize("nearest", [*NEAREST_SPLINES, nearest_linear])
@pytest.mark.parametrize("shape", [(9, 7, 8), (1, 2, 3), (3, 1, 2), (2, 3, 1)])
def test_ramps_stay_what_they_are_up_to_their_ends(nearest, shape):
    axes = torch.meshgrid(*[torch.arange(float(n)) for n in shape], indexing="ij")
    ramp = (0.5 * axes[0] - 2 * axes[1] + axes[2] + 3)[None, None]
    torch.testing.assert_close(nearest(ramp), ramp, atol=1e-5, rtol=0)


@pytest.mark.parametrize("axis", [2, 3, 4])
def test_each_axis_is_treated_alike(axis):
    values = in_the_middle(12).float()
    for nearest in (*NEAREST_SPLINES, nearest_linear):
        line = nearest(values.reshape(1, 1, -1, 1, 1)).flatten()
        shape = [5] * 5
        shape[axis] = 12
        sheet = values.reshape([-1 if k == axis else 1 for k in range(5)]).expand(1, 2, *shape[2:])
        found = nearest(sheet).select({2: 3, 3: 2, 4: 2}[axis], 1).select(-1 if axis != 4 else 2, 1)
        torch.testing.assert_close(found[0, 0].flatten(), line, atol=1e-5, rtol=0)


@pytest.mark.parametrize("degree", [3, 5])
def test_an_array_that_is_filtered_in_place_becomes_the_nearest_spline(monkeypatch, degree):
    monkeypatch.setattr(bsplines, "SLAB", 4)
    values = random(1, 3, 9, 14, 6)
    expected = nearest_spline(values, degree)
    to_nearest_spline(values, degree)
    torch.testing.assert_close(values, expected, atol=1e-5, rtol=0)
