"""Checks of a transform on a grid count what formulas say."""

import pytest
import torch
from synthetic import grid_around, rotation
from torch import eye

from patchmorph.transforms import checks
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.checks import (
    InverseCheck,
    JacobianCheck,
    finest_support,
    mean_distance_mm,
    miss_blocks,
)
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.jacobian import DIFFERENCES

GRID = grid_around((12, 10, 14), eye(3).numpy() * 2)
SHIFT = torch.tensor([[3.0, -4, 0]])


def turned_round() -> DisplacementField:
    """x goes to -x / 2 in the half of the grid where it is positive."""
    points = GRID.points_world()
    u = torch.zeros_like(points)
    u[..., 0] = -1.5 * points[..., 0].clamp(min=0)
    return DisplacementField(u.movedim(-1, 1), GRID)


def test_the_folded_half_of_a_map_is_counted():
    check = JacobianCheck.of(turned_round(), GRID)
    assert check.is_mapped
    # Cells with a corner beyond the fold: by forward differences half of twelve layers, of which the last one
    # repeats the field's border, where the map moves on.
    assert check.folding_percent("forward") == pytest.approx(100 * 5 / 12)
    assert float(check.mapped("central").min()) == pytest.approx(-0.5, abs=1e-5)
    assert {check.unmapped(name) for name in DIFFERENCES} == {0}
    assert check.folding.voxel_share == pytest.approx(5 / 11)


def test_points_that_are_not_mapped_are_neither_folded_nor_forgotten():
    nowhere = AffineTransform(torch.full((1, 4, 4), torch.nan))
    check = JacobianCheck.of(nowhere, GRID)
    assert not check.is_mapped
    assert check.unmapped("forward") == 12 * 10 * 14
    count = 12 * 10 * 14
    assert InverseCheck.of(miss_blocks(nowhere, nowhere, GRID)) == InverseCheck(count, 0, count)


def test_an_inverse_is_checked_against_its_map():
    shift = AffineTransform.translation(SHIFT)
    count = 12 * 10 * 14
    assert InverseCheck.of(miss_blocks(shift, shift.inverse(), GRID)) == InverseCheck(count, 0, 0)
    blocks = list(miss_blocks(shift, AffineTransform.identity(), GRID))
    assert InverseCheck.of(blocks) == InverseCheck(count, count, 0)
    assert torch.cat([block.flatten() for block in blocks]).unique().tolist() == pytest.approx([5.0])


def test_the_distance_of_two_maps_is_the_mean_over_points():
    assert mean_distance_mm(AffineTransform.translation(SHIFT), AffineTransform.identity(), GRID) == 5.0


def test_the_distance_of_two_maps_is_taken_at_points_of_the_whole_grid(monkeypatch):
    monkeypatch.setattr(checks, "COMPARED_POINTS", 300)
    seen = []

    class Seen(AffineTransform):
        def __call__(self, points):
            seen.append(points)
            return super().__call__(points)

    mean_distance_mm(Seen(torch.eye(4, dtype=torch.float64)[None]), AffineTransform.identity(), GRID)
    (points,) = seen
    assert 300 <= points.shape[1] <= 340
    voxels = GRID.to_voxel(points)[0]
    torch.testing.assert_close(voxels, voxels.round(), atol=1e-4, rtol=0)
    assert len(voxels.round().unique(dim=0)) == len(voxels)
    torch.testing.assert_close(voxels.amin(0), torch.zeros(3), atol=1e-4, rtol=0)
    assert (voxels.amax(0) > torch.tensor([10.5, 8.5, 12.5])).all()


def test_the_finest_field_supports_a_chain():
    coarse, fine = (
        DisplacementField(
            torch.zeros(1, 3, 12, 10, 14), grid_around((12, 10, 14), eye(3).numpy() * mm), "zeros"
        )
        for mm in (8, 4)
    )
    assert finest_support(rotation(5)) is None
    for chain in (coarse @ rotation(5) @ fine, fine @ coarse):
        found = finest_support(chain)
        assert found is not None
        assert found.equals(fine.grid)
