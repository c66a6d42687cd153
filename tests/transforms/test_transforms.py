import pytest
import torch
from synthetic import grid_around, rotation, smooth_velocity

from patchmorph.spatial.affine import about_point, exponential, skew
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform, Chain, compose
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.velocity import VelocityField, merged


def inner_points(seed=0):
    return torch.rand(1, 300, 3, generator=torch.Generator().manual_seed(seed)) * 40 - 20


def assert_identity(found, points):
    """Both directions interpolate linearly on a 3 mm grid, which rounds a flow of some mm by hundredths."""
    error = (found - points).norm(dim=-1)
    assert error.mean() < 0.03
    assert error.max() < 0.15


def test_a_constant_velocity_gives_a_constant_shift(linear):
    grid = grid_around((12, 13, 14), linear * 3)
    shift = torch.tensor([3.0, -2.0, 5.0])
    field = VelocityField(shift.reshape(1, 3, 1, 1, 1).expand(1, 3, *grid.shape), grid)
    points = inner_points()
    torch.testing.assert_close(field(points), points + shift, atol=1e-4, rtol=0)


def test_a_linear_velocity_gives_its_exponential():
    grid = Grid.centered((41, 41, 41), 2.0, torch.zeros(1, 3))
    generator = skew(torch.tensor([[0.0, 0.0, 0.3]], dtype=torch.float64))
    velocity = (grid.points_world() @ generator[0].T.float()).movedim(-1, 1)
    points = inner_points()[:, :50] / 2
    expected = AffineTransform(about_point(exponential(generator), torch.zeros(1, 3, dtype=torch.float64)))(
        points
    )
    # Squaring starts from an Euler step of 1/64, whose error is |v|²/2/64: 0.007 mm at 14 mm from the axis.
    assert (VelocityField(velocity, grid)(points) - expected).norm(dim=-1).max() < 0.02


def test_the_inverse_of_a_velocity_field_takes_points_back(linear):
    field = smooth_velocity(grid_around((32, 32, 32), linear * 3), amplitude=3.0)
    points = inner_points()
    assert (field(points) - points).norm(dim=-1).mean() > 1
    assert_identity(field.inverse()(field(points)), points)


def test_merged_velocities_flow_as_their_composition(linear):
    grid = grid_around((30, 31, 32), linear * 3)
    outer, inner = (smooth_velocity(grid, 2.0, seed) for seed in (0, 1))
    points = inner_points()
    composed = (outer @ inner)(points)
    error = (merged(outer, inner)(points) - composed).norm(dim=-1)
    sums = VelocityField(outer.velocity + inner.velocity, grid)
    plain = (sums(points) - composed).norm(dim=-1)
    swapped = (merged(inner, outer)(points) - composed).norm(dim=-1)
    # Shifts of 2 mm: the sum alone is off by 0.1 mm, the formula by 0.012 mm, with the wrong sign 0.2 mm.
    assert error.mean() < plain.mean() / 5
    assert error.mean() < 0.02
    assert swapped.mean() > 1.5 * plain.mean()


def test_a_chain_applies_the_inner_transform_first():
    shift = AffineTransform.translation(torch.tensor([[10.0, 0, 0]]))
    field = smooth_velocity(grid_around((32, 32, 32), torch.eye(3).numpy() * 3), 2.0)
    points = inner_points()
    torch.testing.assert_close((field @ shift)(points), field(shift(points)))
    torch.testing.assert_close((shift @ field)(points), shift(field(points)))


def test_neighbouring_affines_become_one_matrix():
    field = smooth_velocity(grid_around((8, 8, 8), torch.eye(3).numpy()), 1.0)
    chain = rotation() @ rotation(30) @ field @ rotation() @ rotation()
    assert [type(part) for part in chain.parts()] == [AffineTransform, VelocityField, AffineTransform]
    torch.testing.assert_close((rotation(20) @ rotation(30)).parts()[0].matrix, rotation(50).matrix)


def test_the_inverse_of_a_chain_takes_points_back():
    grid = grid_around((32, 32, 32), torch.eye(3).numpy() * 3)
    chain = rotation() @ smooth_velocity(grid, 2.0) @ smooth_velocity(grid, 1.0, seed=1)
    assert isinstance(chain, Chain)
    points = inner_points()
    assert_identity(chain.inverse()(chain(points)), points)
    assert_identity(chain(chain.inverse()(points)), points)


def test_the_inverse_of_a_displacement_field_is_found_by_iteration():
    flow = smooth_velocity(grid_around((32, 32, 32), torch.eye(3).numpy() * 3), 3.0).flow
    assert isinstance(flow, DisplacementField)
    points = inner_points()
    # φ is met to 2e-4 mm; the slope of its inverse is below 2.5.
    assert (flow.inverse()(flow(points)) - points).norm(dim=-1).max() < 1e-3
    assert flow.inverse().inverse() is flow


@pytest.mark.parametrize(
    "transform", [rotation(), smooth_velocity(Grid.centered((9, 9, 9), 4.0, torch.zeros(1, 3)), 2.0)]
)
def test_batches_of_points_share_one_transform(transform):
    points = inner_points().reshape(3, 100, 3)
    separate = torch.cat([transform(entry[None]) for entry in points])
    torch.testing.assert_close(transform(points), separate)


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_a_flow_takes_as_many_squarings_as_it_was_given(steps):
    """By hand, for v = x / 2: Euler's 2ⁿ steps give (1 + 2⁻ⁿ / 2) to the power 2ⁿ, times x."""
    grid = Grid.centered((21, 21, 21), 2.0, torch.zeros(1, 3))
    flow = VelocityField((grid.points_world() / 2).movedim(-1, 1), grid, steps)
    points = inner_points()[:, :50] / 8  # what comes from beyond the grid is not linear
    factor = (1 + 0.5 / 2**steps) ** 2**steps
    torch.testing.assert_close(flow(points), factor * points, atol=1e-4, rtol=1e-4)


def test_merged_velocities_keep_the_most_steps_and_add_their_variances():
    grid = Grid.centered((6, 6, 6), 4.0, torch.zeros(1, 3))
    velocity = torch.rand(1, 3, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    one, two, none = (
        VelocityField(velocity, grid, steps, variance)
        for steps, variance in (
            (3, torch.full((1, 1, 6, 6, 6), 0.25)),
            (7, torch.full((1, 1, 6, 6, 6), 2.0)),
            (5, None),
        )
    )
    for outer, inner, steps, variance in ((one, two, 7, 2.25), (two, one, 7, 2.25), (none, one, 5, 0.25)):
        both = merged(outer, inner)
        assert both.steps == steps
        torch.testing.assert_close(both.variance, torch.full((1, 1, 6, 6, 6), variance))
    assert merged(none, none).variance is None


@pytest.mark.parametrize("kind", ["flow", "field"])
def test_an_inverse_is_found_to_the_tolerance_that_was_asked_for(kind):
    flow = smooth_velocity(Grid.centered((20, 20, 20), 3.0, torch.zeros(1, 3)), 10.0)
    forward = flow if kind == "flow" else flow.flow
    targets = inner_points()
    exact, rough = forward.inverse(), forward.inverse().within(0.2)
    misses = [(forward(inverse(targets)) - targets).norm(dim=-1).max().item() for inverse in (exact, rough)]
    assert misses[0] < 3e-4
    assert 2e-3 < misses[1] < 0.2 + 1e-4  # points computed together with others differ by 1e-5 mm
    assert rough.inverse() is forward


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", [0, -1])
def test_a_field_fades_if_it_does_at_all_six_faces(axis, end):
    values = torch.zeros(1, 3, 5, 6, 7)
    values[:, :, 1:-1, 1:-1, 1:-1] = 2.0
    grid = Grid.centered((5, 6, 7), 3.0, torch.zeros(1, 3))
    assert DisplacementField(values, grid).support() is grid
    values.select(axis + 2, end)[0, 1, 2, 2] = 0.5
    field = DisplacementField(values, grid)
    assert not field.fades
    assert field.support() is field.inverse().support() is None
    other = DisplacementField(values, grid, outside="zeros")
    assert other.support() is grid
    assert other.inverse().support() is None


def test_the_nearest_affine_map_is_the_one_that_was_applied():
    points = inner_points()
    matrix = rotation(30).matrix.clone()
    matrix[0, :3, :3] *= torch.tensor([[1.2], [0.8], [1.1]], dtype=torch.float64)
    found = AffineTransform.nearest(points, AffineTransform(matrix)(points.double())).matrix
    torch.testing.assert_close(found, matrix, atol=1e-6, rtol=0)


def test_tabulating_takes_any_transform_at_the_points_of_the_grid(linear):
    grid = grid_around((7, 8, 9), linear * 3, (2.0, 1, -4))
    chain = rotation() @ smooth_velocity(grid_around((12, 12, 12), linear * 4), 3.0)
    table = DisplacementField.tabulate(chain, grid)
    points = grid.points_world()
    assert table.outside == "border"
    torch.testing.assert_close(table.displacement, (chain(points) - points).movedim(-1, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(table(points), chain(points), atol=1e-4, rtol=0)


def test_composing_applies_the_last_part_first_and_nothing_is_the_identity(linear):
    field = smooth_velocity(grid_around((8, 8, 8), linear * 3), 2.0)
    shift = AffineTransform.translation(torch.tensor([[10.0, 0, 0]]))
    points = inner_points()
    assert torch.equal(compose()(points), points)
    assert compose(field) is field
    three = compose(rotation(), field, shift)
    torch.testing.assert_close(three(points), rotation()(field(shift(points))))
    nested = compose(compose(shift, field), compose(field, shift), rotation())
    assert [type(part) for part in nested.parts()] == [
        AffineTransform,
        VelocityField,
        VelocityField,
        AffineTransform,
    ]
    torch.testing.assert_close(nested(points), shift(field(field(shift(rotation()(points))))))


def test_the_affine_part_is_the_outermost_part_if_that_is_affine():
    field = smooth_velocity(grid_around((8, 8, 8), torch.eye(3).numpy() * 3), 2.0)
    identity = torch.eye(4, dtype=torch.float64)[None]
    assert torch.equal(rotation().affine_part().matrix, rotation().matrix)
    assert torch.equal((rotation() @ field).affine_part().matrix, rotation().matrix)
    assert torch.equal((rotation() @ field @ rotation(30)).affine_part().matrix, rotation().matrix)
    assert torch.equal((field @ rotation()).affine_part().matrix, identity)
    assert torch.equal(field.affine_part().matrix, identity)


def test_the_remainder_of_a_map_is_its_displacement_without_the_affine_part():
    """By hand: 2 (x + (1, 2, 3)) + (5, 0, 0) is the affine map 2 x + (5, 0, 0) after a shift by (1, 2, 3)."""
    matrix = torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=torch.float64))[None]
    matrix[0, 0, 3] = 5
    points = inner_points()
    mapped = 2 * (points + torch.tensor([1.0, 2, 3])) + torch.tensor([5.0, 0, 0])
    found = AffineTransform(matrix).remainder(points, mapped)
    torch.testing.assert_close(found, torch.tensor([1.0, 2, 3]).expand_as(points), atol=1e-4, rtol=0)
    field = smooth_velocity(grid_around((20, 20, 20), torch.eye(3).numpy() * 3), 2.0)
    chain = rotation() @ field
    residual = chain.affine_part().remainder(points, chain(points))
    torch.testing.assert_close(residual, field(points) - points, atol=1e-4, rtol=0)
