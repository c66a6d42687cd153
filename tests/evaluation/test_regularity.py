"""Non-diffeomorphic volume and inverse consistency are those of the region, and of all blocks."""

import math

import numpy as np
import pytest
import torch
from registered import registered
from synthetic import grid_around, smooth_image

from patchmorph.evaluation.labels import PairLabels
from patchmorph.evaluation.measured import measure_map
from patchmorph.evaluation.metrics import inverse_consistency_mm
from patchmorph.images.foreground import foreground
from patchmorph.images.volume import Image
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.jacobian import folding

GRID = grid_around((24, 28, 22), np.eye(3) * 7)
BRAIN = smooth_image(GRID)


def labels_where(side) -> Image:
    """Labels at −63 < y, z < 63 mm where ``side`` of x holds."""
    points = GRID.points_world()[0]
    inside = side(points[..., 0]) & (points[..., 1:].abs() < 63).all(-1)
    return Image(inside.to(torch.int16)[None, None], GRID, "labels")


def folds_right_of(x_mm: float) -> DisplacementField:
    """φ is the identity left of x and turns round beyond: volumes are those of −0.5 there."""
    points = GRID.points_world()
    displacement = torch.zeros_like(points)
    displacement[..., 0] = -1.5 * (points[..., 0] - x_mm).clamp(min=0)
    return DisplacementField(displacement.movedim(-1, 1), GRID)


@pytest.mark.parametrize(
    ("side", "percent"),
    [
        (lambda x: x < -5, 0.0),
        (lambda x: x > 5, 50.0),
        (lambda x: x.abs() < 1e9, 25.0),
        (lambda x: (x < -5) | (x > 60), 100 / 13),
    ],
    ids=["left", "right", "both", "two of thirteen layers"],
)
def test_the_volume_of_folds_is_a_share_of_the_region(side, percent):
    """The middle lies between two voxels at ±3.5 mm; the fold begins at the right one of them."""
    registration, labels = registered(BRAIN, BRAIN, folds_right_of(3.5)), labels_where(side)
    found = measure_map(registration, PairLabels(labels, labels), in_detail=True)
    assert found.ndv_percent == pytest.approx(percent, abs=2.5)
    assert found.inverse_consistency_mm > 1  # what turns round has two points for one


def test_a_regular_map_comes_back_and_has_no_folds():
    points = GRID.points_world()
    field = DisplacementField((4 * torch.sin(points / 25)).movedim(-1, 1), GRID)
    found = measure_map(registered(BRAIN, BRAIN, field), PairLabels(), in_detail=True)
    assert found.ndv_percent == 0
    assert found.inverse_consistency_mm < 1e-3


def test_the_region_is_the_content_without_labels_and_figures_are_those_of_whole_arrays():
    """On a grid of several blocks, and with labels at its last faces, where cells end."""
    grid = grid_around((70, 12, 11), np.eye(3) * 2.5)
    noise = torch.randn(1, 3, 18, 4, 4, generator=torch.Generator().manual_seed(0))
    field = DisplacementField(noise * 3, grid_around((18, 4, 4), np.eye(3) * 10))
    image = smooth_image(grid)
    registration = registered(image, image, field)
    inside = torch.zeros(grid.shape, dtype=torch.bool)
    inside[3:, 4:] = True
    labels = Image(inside.to(torch.int16)[None, None], grid)
    content = foreground(image.normalized().values())[0, 0]
    for given, region in ((PairLabels(labels, labels), inside), (PairLabels(), content)):
        found = measure_map(registration, given, in_detail=True)
        expected = 100 * folding(field, grid, region[:-1, :-1, :-1]).volume_share
        assert expected > 0.01
        assert found.ndv_percent == pytest.approx(expected, rel=1e-4)
    plain = measure_map(registration, PairLabels())
    assert math.isnan(plain.ndv_percent)
    assert math.isnan(plain.inverse_consistency_mm)


def test_inverse_consistency_is_the_mean_distance_of_the_points_that_are_mapped():
    points = torch.tensor([[[0.0, 0, 0], [1, 1, 1], [5, 5, 5]]])
    back = torch.tensor([[[3.0, 4, 0], [1, 1, 2], [torch.nan] * 3]])
    assert inverse_consistency_mm(lambda x: x + 1, lambda y: y - 1 - points + back, points) == pytest.approx(
        3
    )
