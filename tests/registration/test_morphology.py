"""Morphology with balls, against its definitions by every pair of voxels."""

import functools

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from patchmorph.registration.morphology import closed, fill_holes, grown, largest_component, opened

SHAPE = (9, 7, 8)
RADII = (0.0, 1.0, 1.5, 2.0, 3.3)


def random_mask(fraction: float, seed: int = 0) -> Tensor:
    values = torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return values < fraction


@functools.cache
def distances(shape: tuple[int, ...]) -> Tensor:
    """Between all pairs of voxels."""
    axes = [torch.arange(float(n)) for n in shape]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    return torch.cdist(places, places)


def by_definition(mask: Tensor, radius: float) -> Tensor:
    """Dilation: voxels within a radius of any in the mask."""
    near = distances(tuple(mask.shape[2:]))[:, mask.flatten()] <= radius + 1e-4
    return near.any(1).reshape(mask.shape)


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("fraction", [0.005, 0.05, 0.5])
def test_growing_is_the_dilation(radius, fraction):
    mask = random_mask(fraction)
    assert torch.equal(grown(mask, radius), by_definition(mask, radius))


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.3])
def test_closing_is_the_erosion_of_the_dilation_in_an_empty_world(radius, fraction):
    mask = random_mask(fraction)
    margin = 4
    world = torch.nn.functional.pad(mask, (margin,) * 6)
    expected = ~by_definition(~by_definition(world, radius), radius)
    inner = expected[..., margin:-margin, margin:-margin, margin:-margin]
    assert torch.equal(closed(mask, radius), inner)


@pytest.mark.parametrize("radius", RADII)
@pytest.mark.parametrize("fraction", [0.5, 0.8, 0.97])
def test_opening_is_the_dilation_of_the_erosion(radius, fraction):
    """Beyond the volume nothing is known, so nothing is eroded from there."""
    mask = random_mask(fraction)
    assert torch.equal(opened(mask, radius), by_definition(~by_definition(~mask, radius), radius))


@pytest.mark.parametrize("radius", [1.0, 2.5])
def test_closing_and_opening_twice_changes_nothing_more(radius):
    for seed in range(3):
        mask = random_mask(0.4, seed)
        for change in (closed, opened):
            once = change(mask, radius)
            assert torch.equal(change(once, radius), once)
        assert not (mask & ~closed(mask, radius)).any()
        assert not (opened(mask, radius) & ~mask).any()


def test_closing_at_a_face_of_the_volume_bridges_gaps_and_adds_nothing():
    mask = torch.zeros(1, 1, 9, 9, 9, dtype=torch.bool)
    mask[..., :3, :3, :] = True
    assert torch.equal(closed(mask, 3.0), mask)
    mask[..., 4:6, :3, :] = True
    bridged = mask.clone()
    bridged[..., 3, :3, :] = True
    found = closed(mask, 3.0)
    assert torch.equal(found[..., :3, :, :], bridged[..., :3, :, :])
    assert found[..., 3, 1, 1:-1].all()


def test_holes_are_what_has_no_way_out():
    mask = torch.zeros(1, 1, 9, 9, 9, dtype=torch.bool)
    mask[..., 1:8, 1:8, 1:8] = True
    mask[..., 3:6, 3:6, 3:6] = False
    solid = mask.clone()
    solid[..., 3:6, 3:6, 3:6] = True
    assert torch.equal(fill_holes(mask), solid)
    tunnel = mask.clone()
    tunnel[..., 4, 4, :4] = False
    assert torch.equal(fill_holes(tunnel), tunnel)
    diagonal = mask.clone()  # voxels that touch at an edge are no way out
    diagonal[..., 2, 2, 4] = diagonal[..., 1, 1, 4] = False
    filled = fill_holes(diagonal)
    assert filled[..., 2:7, 2:7, 2:7].all()


@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.8])
def test_holes_and_components_are_those_of_scipy(fraction):
    for seed in range(3):
        mask = random_mask(fraction, seed)
        array = mask[0, 0].numpy()
        assert (fill_holes(mask)[0, 0].numpy() == ndimage.binary_fill_holes(array)).all()
        pieces, count = ndimage.label(array)
        sizes = ndimage.sum_labels(array, pieces, np.arange(1, count + 1))
        assert (largest_component(mask)[0, 0].numpy() == (pieces == 1 + sizes.argmax())).all()


def test_nothing_is_the_largest_component_of_an_empty_mask():
    assert not largest_component(random_mask(0.0)).any()


def test_empty_and_full_masks_stay():
    for mask in (torch.zeros(1, 1, 5, 6, 7, dtype=torch.bool), torch.ones(1, 1, 5, 6, 7, dtype=torch.bool)):
        for change in (grown, closed, opened):
            assert torch.equal(change(mask, 2.0), mask)
        assert torch.equal(fill_holes(mask), mask)
        assert torch.equal(largest_component(mask), mask)
