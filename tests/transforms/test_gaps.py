"""Points that a map does not define are NaN, whatever is done with the map."""

import pytest
import torch
from synthetic import AFFINES, grid_around, rotation, smooth_image, smooth_velocity

from patchmorph.images.volume import Image
from patchmorph.spatial.affine import apply_affine
from patchmorph.spatial.sampling import INTERPOLATIONS
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.gaps import Gaps, filled_gaps, missing_voxels
from patchmorph.transforms.inverse import round_trip_mm
from patchmorph.transforms.jacobian import DIFFERENCES, folding, jacobian_determinant, log_determinant
from patchmorph.transforms.resample import resample

GRID = grid_around((16, 15, 14), AFFINES["LIA"] * 8, (3, 2, 1))
MISSING = torch.zeros(1, 1, 16, 15, 14, dtype=torch.bool)
MISSING[..., 5:8, 6:9, 4] = True
GAPS = Gaps(MISSING, GRID)
FLOW = smooth_velocity(GRID, 4.0)


def test_points_next_to_a_missing_voxel_are_not_mapped_and_others_are_left_alone():
    points = GRID.points_world()
    mapped = GAPS(points)
    torch.testing.assert_close(mapped.isnan().any(-1)[:, None], MISSING)
    torch.testing.assert_close(mapped[0][~MISSING[0, 0]], points[0][~MISSING[0, 0]])
    between = (points[:, 4, 6, 4] + points[:, 5, 6, 4]) / 2
    assert GAPS(between[:, None]).isnan().all()
    far = points + 1000
    assert torch.equal(GAPS(far), far)


@pytest.mark.parametrize(
    "after",
    [rotation(), FLOW, FLOW.inverse(), FLOW.flow, DisplacementField(FLOW.velocity, GRID, "zeros").inverse()],
    ids=["affine", "flow", "inverse flow", "displacement", "inverse displacement"],
)
def test_what_is_not_mapped_stays_so_and_spoils_nothing(after):
    """Rows of eight points share a matrix product on a CPU: NaN must not reach the others."""
    points = GRID.points_world()
    with torch.no_grad():
        mapped, alone = (rotation() @ after @ GAPS)(points), (rotation() @ after)(points)
    missing = MISSING[0, 0]
    assert mapped[0][missing].isnan().all()
    torch.testing.assert_close(mapped[0][~missing], alone[0][~missing], atol=1e-3, rtol=0)


@pytest.mark.parametrize("rows", [1, 8, 9, 100])
def test_a_matrix_maps_nan_to_nan_only(rows):
    points = torch.rand(1, rows, 3)
    points[0, rows // 2, 1] = torch.nan
    with torch.no_grad():
        mapped = apply_affine(rotation().matrix, points)
    expected = apply_affine(rotation().matrix, points.nan_to_num())
    finite = torch.arange(rows) != rows // 2
    torch.testing.assert_close(mapped[:, finite], expected[:, finite])
    assert mapped[:, ~finite].isnan().any()


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("background", [0, 9])
def test_an_image_has_its_background_there(interpolation, background):
    image = smooth_image(GRID)
    image = Image((image.data * 50 + 100).to(torch.int16), GRID)
    found = resample(image, GAPS, GRID, interpolation, background).data
    assert (found[MISSING] == background).all()
    assert (found[~MISSING] >= 99).all()


def test_the_inverse_is_not_defined_there_either():
    transform = FLOW @ GAPS
    missed = round_trip_mm(transform, transform.inverse(), GRID)
    landed = GAPS(FLOW.inverse()(GRID.points_world()))[0].isnan().any(-1)
    assert torch.equal(missed.isnan(), landed)
    assert landed.any()
    assert missed[~landed].max() < 1e-3


@pytest.mark.parametrize("differences", DIFFERENCES)
def test_the_jacobian_is_nan_where_its_points_are(differences):
    known = jacobian_determinant(FLOW @ GAPS, GRID, differences)
    whole = jacobian_determinant(FLOW, GRID, differences)
    missing = MISSING[0, 0]
    assert known[missing].isnan().any()
    assert missing.sum() // 2 < known.isnan().sum() < missing.sum() * 8
    kept = ~known.isnan()
    torch.testing.assert_close(known[kept], whole[kept], atol=1e-4, rtol=0)
    assert torch.equal(log_determinant(known).isnan(), known.isnan())


def test_folds_are_counted_among_mapped_cells():
    """A map that mirrors folds in every cell: all mapped ones, and the share is of these."""
    mirror = DisplacementField(torch.zeros(1, 3, 16, 15, 14), GRID, "zeros")
    mirror.displacement[:, 0] = -2 * GRID.points_world()[..., 0]
    whole, known = folding(mirror, GRID), folding(mirror @ GAPS, GRID)
    assert whole.voxel_share == known.voxel_share == 1
    assert whole.voxels - known.voxels == 4 * 4 * 2  # cells with a corner among 3 × 3 × 1 voxels
    assert known.volume_share == pytest.approx(whole.volume_share)


def test_missing_voxels_are_counted_over_all_parts():
    assert missing_voxels(FLOW) == 0
    assert missing_voxels(rotation() @ FLOW @ GAPS) == MISSING.sum()
    assert missing_voxels((FLOW @ GAPS).inverse().to("cpu")) == MISSING.sum()


def test_gaps_are_filled_from_the_smallest_block_with_known_voxels():
    values = torch.arange(8.0).reshape(1, 1, 8, 1, 1).expand(1, 2, 8, 3, 2).clone()
    missing = torch.zeros(1, 1, 8, 3, 2, dtype=torch.bool)
    missing[:, :, 1] = missing[:, :, 4:] = True
    values[missing.expand_as(values)] = torch.nan
    filled = filled_gaps(values, missing)
    block = (0 + (2 + 3) / 2) / 2  # a mean of means
    expected = torch.tensor([0, 0, 2, 3, *[block] * 4])
    torch.testing.assert_close(filled, expected.reshape(1, 1, 8, 1, 1).expand_as(filled))
    assert torch.equal(filled_gaps(values, torch.ones_like(missing)), torch.zeros_like(values))
    assert torch.equal(filled_gaps(filled, torch.zeros_like(missing)), filled)
