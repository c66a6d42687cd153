"""What counts as detail: only what half the resolution cannot show."""

import pytest
import torch
from torch.nn import functional

from patchmorph.patches.detail import MIN_DETAIL, detail


def wave(voxels: float, side: int = 32, amplitude: float = 0.3) -> torch.Tensor:
    """A wave along the first axis."""
    phase = 2 * torch.pi * torch.arange(side) / voxels
    return (amplitude * torch.sin(phase))[:, None, None].expand(1, 1, side, side, side)


def test_short_waves_are_detail_and_long_ones_are_not():
    found = [float(detail(wave(voxels))) for voxels in (3, 4, 8, 24)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.15  # of a root mean square of 0.21
    assert found[-1] < MIN_DETAIL


@pytest.mark.parametrize("side", [16, 32, 64])
def test_a_patch_counts_by_its_part_with_most_detail(side):
    patch = torch.full((2, 2, side, side, side), 0.5)
    assert float(detail(patch).abs().max()) < 1e-6
    patch[1, 0, :16, :16, :16] += torch.rand(16, 16, 16, generator=torch.Generator().manual_seed(0)) - 0.5
    found = detail(patch)
    assert found[1, 0] > 0.2
    found[1, 0] = 0
    assert float(found.abs().max()) < 1e-6


def test_an_image_that_was_enlarged_has_no_detail():
    image = torch.rand(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(1)) * 0.3
    enlarged = functional.interpolate(image, scale_factor=4, mode="trilinear", align_corners=False)
    assert float(detail(image)) > MIN_DETAIL > float(detail(enlarged))
