import pytest
import torch
from synthetic import grid_around, rotation, smooth_velocity

from patchmorph.spatial.affine import about_point, exponential, skew
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.chain import Chain
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
