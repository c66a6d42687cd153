from itertools import pairwise

import pytest
import torch
from synthetic import AFFINES, grid_around, rotation, smooth_velocity

from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.fields import as_fields
from patchmorph.transforms.inverse import MAX_STEP_RATIO, TOLERANCE_MM, round_trip_mm, solve


def test_steep_fields_are_inverted_where_the_plain_iteration_fails(linear):
    """A gradient above one: x ← y − u(x) runs away, φ still does not fold."""
    grid = grid_around((24, 25, 26), linear * 3)
    points = grid.points_world()
    steep = DisplacementField((1.5 * points).movedim(-1, 1), grid)  # φ(x) = 2.5 x
    targets = torch.rand(1, 400, 3, generator=torch.Generator().manual_seed(0)) * 50 - 25
    plain = targets
    for _ in range(30):
        plain = targets - steep.at(plain)
    assert (steep(plain) - targets).norm(dim=-1).max() > 1
    found = steep.inverse()(targets)
    torch.testing.assert_close(found, targets / 2.5, atol=1e-3, rtol=0)
    assert (steep(found) - targets).norm(dim=-1).max() <= TOLERANCE_MM


def test_all_points_of_a_strong_flow_are_found():
    flow = smooth_velocity(Grid.centered((24, 24, 24), 3.0, torch.zeros(1, 3)), 12.0)
    targets = torch.rand(1, 2000, 3, generator=torch.Generator().manual_seed(0)) * 50 - 25
    for transform in (flow, flow.flow):
        # float32 coordinates of up to 50 mm and a few operations on them: 2e-5.
        assert (transform(transform.inverse()(targets)) - targets).norm(dim=-1).max() <= TOLERANCE_MM + 5e-5


def test_batches_are_solved_together():
    field = smooth_velocity(Grid.centered((16, 16, 16), 4.0, torch.zeros(1, 3)), 4.0).flow
    targets = torch.rand(3, 50, 3, generator=torch.Generator().manual_seed(0)) * 40 - 20
    together = field.inverse()(targets)
    apart = torch.cat([field.inverse()(target[None]) for target in targets])
    torch.testing.assert_close(together, apart, atol=2e-3, rtol=0)
    assert torch.equal(solve(lambda x: x, targets, targets), targets)


def test_the_round_trip_is_how_far_an_inverse_misses(linear):
    grid = grid_around((9, 10, 11), linear * 3)
    shift = AffineTransform.translation(torch.tensor([[3.0, 0.0, -4.0]]))
    missed = round_trip_mm(shift, AffineTransform.identity(), grid)
    torch.testing.assert_close(missed, torch.full(grid.shape, 5.0), atol=1e-4, rtol=0)
    chain = rotation() @ smooth_velocity(Grid.centered((16, 16, 16), 3.0, torch.zeros(1, 3)), 4.0)
    assert round_trip_mm(chain, chain.inverse(), grid).max() < 1e-3


@pytest.mark.parametrize("name", ["RAS", "LIA", "oblique"])
def test_a_dense_field_with_a_pose_in_it_is_inverted(name):
    """As other tools' fields, zero outside the fixed grid: the moving image may lie anywhere."""
    linear = AFFINES[name]
    grid = grid_around((30, 31, 32), linear * 4)
    flow = smooth_velocity(grid_around((20, 20, 20), linear * 5), 4.0)
    whole = AffineTransform.translation(torch.tensor([[150.0, -40, 20]])) @ rotation(30) @ flow
    field = DisplacementField(DisplacementField.tabulate(whole, grid).displacement, grid, outside="zeros")
    points = torch.rand(1, 500, 3, generator=torch.Generator().manual_seed(0)) * 60 - 30
    torch.testing.assert_close(field.inverse()(field(points)), points, atol=2e-3, rtol=0)
    assert field.inverse().support() is None
    (tabulated,) = as_fields(field.inverse())
    assert (tabulated(field(points)) - points).norm(dim=-1).mean() < 0.1
    beyond = torch.tensor([[[500.0, 0, 0]]])
    torch.testing.assert_close(field.inverse()(beyond), beyond)


def test_no_step_is_longer_than_twice_the_smallest_miss():
    """The slope of a map that levels off gives steps without end; they are cut short."""
    visited = []

    def saturating(points):
        visited.append(points.clone())
        return 10 * torch.tanh(points / 10)

    targets = torch.tensor([[[15.0, 0.0, 0.0]]])  # beyond the range of the map
    found = solve(saturating, targets, targets)
    assert len(visited) > 10
    least = torch.inf
    for before, after in pairwise(visited):
        least = min(least, (10 * torch.tanh(before / 10) - targets).norm().item())
        assert (after - before).norm().item() <= MAX_STEP_RATIO * least * (1 + 1e-5)
    misses = [(10 * torch.tanh(point / 10) - targets).norm() for point in visited]
    torch.testing.assert_close(saturating(found), targets + torch.tensor([[[-5.0, 0, 0]]]), atol=1e-2, rtol=0)
    assert (saturating(found) - targets).norm() <= min(misses) + 1e-6  # the best of all


def test_the_round_trip_starts_with_the_inverse():
    """By hand, where the order matters: T(R y) − y, with a shift T and a turn R that is not its inverse."""
    grid = grid_around((4, 5, 6), torch.eye(3).numpy() * 5, (20.0, 0, 0))
    shrink = AffineTransform(torch.diag(torch.tensor([0.5, 0.5, 0.5, 1.0], dtype=torch.float64))[None])
    shift = AffineTransform.translation(torch.tensor([[10.0, 0.0, 0.0]]))
    points = grid.points_world()[0]
    expected = (points / 2 + torch.tensor([10.0, 0, 0]) - points).norm(dim=-1)
    torch.testing.assert_close(round_trip_mm(shift, shrink, grid), expected, atol=1e-4, rtol=0)


def test_inverses_are_tabulated_finer_than_their_fields_and_wherever_they_move_points(linear):
    grid = grid_around((12, 12, 12), linear * 4)
    flow = smooth_velocity(grid, 8.0)
    shifted = DisplacementField(
        flow.flow.displacement + torch.tensor([30.0, 0, 0])[:, None, None, None], grid, outside="zeros"
    )
    (table,) = as_fields(shifted.inverse())
    spacing = table.grid.spacing_mm[0]
    assert spacing.max() < grid.spacing_mm.min() / 1.5
    reached = shifted(grid.corners_world().float())[0].double()
    corners = table.grid.corners_world()[0]
    assert (corners.amin(0) <= reached.amin(0) + 1e-6).all()
    assert (corners.amax(0) >= reached.amax(0) - 1e-6).all()
    points = grid.crop((3, 3, 3), (6, 6, 6)).points_world()
    found = (table(shifted(points)) - points).norm(dim=-1)
    assert found.mean() < 0.1  # linear between points 2.5 mm apart, of a flow that bends over 10 mm


def test_a_field_that_ends_reaches_half_a_voxel_beyond_its_points(linear):
    """By hand, for a shift: what comes from within is taken back, all else stays."""
    grid = grid_around((6, 7, 8), linear * 4, (3.0, 1, -2))
    shift = torch.tensor([50.0, -60.0, 70.0])
    field = DisplacementField(
        shift.reshape(1, 3, 1, 1, 1).expand(1, 3, *grid.shape).contiguous(), grid, outside="zeros"
    )
    matrix = grid.voxel_to_world[0].float()
    for axis, count in enumerate(grid.shape):
        for coordinate, within in ((-0.4, True), (-0.6, False), (count - 0.6, True), (count - 0.4, False)):
            voxel = torch.tensor([2.0, 3.0, 4.0])
            voxel[axis] = coordinate
            target = (matrix[:3, :3] @ voxel + matrix[:3, 3] + shift)[None, None]
            expected = target - shift if within else target
            torch.testing.assert_close(field.inverse()(target), expected, atol=1e-3, rtol=0)
