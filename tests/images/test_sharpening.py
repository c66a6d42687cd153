"""Sharpening steepens edges, and changes neither flat nor linear parts nor the range."""

import torch

from patchmorph.images.sharpening import AMOUNT, sharpened


def test_a_soft_edge_becomes_steeper_within_its_range():
    edge = torch.sigmoid(torch.linspace(-6, 6, 13)).expand(1, 1, 5, 5, 13)
    found = sharpened(edge, (1.0, 1.0, 1.0))
    assert (found[..., 7] - found[..., 5]).min() > 1.05 * (edge[..., 7] - edge[..., 5]).max()
    assert found.min() >= edge.min()
    assert found.max() <= edge.max()


def test_a_ramp_stays_as_it_is_between_its_ends():
    ramp = torch.linspace(0, 1, 9).expand(1, 1, 4, 4, 9)
    torch.testing.assert_close(sharpened(ramp, (1.0, 2.0, 1.0))[..., 1:-1], ramp[..., 1:-1])


def test_wide_voxels_count_less_along_their_axis():
    values = torch.zeros(1, 1, 7, 7, 7)
    values[..., 3, 3, 3], values[..., 0, 0, 0], values[..., 6, 6, 6] = 1.0, 9.0, -9.0
    found = sharpened(values, (1.0, 2.0, 1.0))
    center = found[0, 0, 3, 3]
    assert center[3] == 1 + AMOUNT * (2 + 2 / 4 + 2)
    assert found[0, 0, 3, 4, 3] == -AMOUNT / 4
    assert found[0, 0, 4, 3, 3] == found[0, 0, 3, 3, 4] == -AMOUNT
