"""CPU and CUDA give the same result within the tolerance that docs/conventions.md states."""

import pytest
import torch
from synthetic import AFFINES, grid_around, smooth_image

from patchmorph import api


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu():
    fixed = smooth_image(grid_around((150, 180, 140), AFFINES["RAS"]))
    moving = smooth_image(grid_around((152, 182, 150), AFFINES["LIA"], (5, -8, 3)))
    points = fixed.grid.points_world()[fixed.data[:, 0] > 0.2][None]
    cpu, cuda = (api.register(fixed, moving, device=device).transform for device in ("cpu", "cuda"))
    difference = (cuda(points.cuda()).cpu() - cpu(points)).norm(dim=-1)
    assert difference.mean() < 0.1
    assert difference.quantile(0.99) < 0.5
