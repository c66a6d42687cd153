"""What is computed block by block, and on parts of a field, is what the whole gives."""

import pytest
import torch
from synthetic import AFFINES, grid_around, rotation, smooth_velocity

from patchmorph.spatial.grid import Grid, VoxelBox
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.blocks import mapped_blocks
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.jacobian import DIFFERENCES, folding, jacobian_determinant
from patchmorph.transforms.velocity import VelocityField

GRID = grid_around((70, 22, 24), AFFINES["LIA"] * 2, (3.0, -2, 7))
"""Longer than a block along its first axis."""


def ending_flow(linear) -> VelocityField:
    """A flow that is zero at the faces of its grid, which covers a part of `GRID`."""
    flow = smooth_velocity(grid_around((14, 9, 10), linear * 3, (14.0, -5, 3)), 4.0)
    inside = torch.zeros(1, 1, *flow.grid.shape)
    inside[:, :, 1:-1, 1:-1, 1:-1] = 1
    return VelocityField(flow.velocity * inside, flow.grid)


def maps(linear) -> dict[str, Transform]:
    flow = ending_flow(linear)
    return {
        "affine": rotation(10),
        "flow that ends": rotation(10) @ flow @ rotation(-25) @ flow.inverse(),
        "flow that goes on": rotation(10) @ smooth_velocity(flow.grid, 4.0),
        "field of zeros beyond": DisplacementField(flow.flow.displacement + 1, flow.grid, outside="zeros"),
        "field that fades": flow.flow @ rotation(10),
        "two fields": flow.flow @ AffineTransform.translation(torch.tensor([[30.0, 4, -3]])) @ flow,
        "three affine maps": (
            rotation(10)
            @ flow
            @ AffineTransform.translation(torch.tensor([[25.0, 4, -3]]))
            @ flow.inverse()
            @ rotation(-40)
        ),
    }


@pytest.mark.parametrize("halo", [0, 1, 3])
@pytest.mark.parametrize("name", maps(AFFINES["RAS"]))
def test_mapped_blocks_are_the_transform_at_the_points_of_a_partition(linear, name, halo):
    transform = maps(linear)[name]
    covered = torch.zeros(GRID.shape, dtype=torch.int64)
    moved = 0.0
    for block in mapped_blocks(transform, GRID, halo):
        covered[block.box.slices] += 1
        expected_grid = GRID.crop(block.box.start, block.box.shape).widened(halo)
        assert block.grid.shape == expected_grid.shape
        torch.testing.assert_close(block.grid.voxel_to_world, expected_grid.voxel_to_world)
        torch.testing.assert_close(block.points, expected_grid.points_world(), atol=1e-4, rtol=0)
        # Inverses are solved to 2e-4 mm, in float32 coordinates.
        torch.testing.assert_close(block.mapped, transform(expected_grid.points_world()), atol=6e-4, rtol=0)
        moved = max(moved, float((block.mapped - block.points).norm(dim=-1).max()))
    assert (covered == 1).all()
    assert moved > 1


def test_a_small_field_is_met_where_all_affine_maps_before_it_lead():
    """A quarter turn and a shift do not commute: in the other order the field would be sought elsewhere."""
    turn = torch.eye(4, dtype=torch.float64)
    turn[:2, :2] = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    shift = AffineTransform.translation(torch.tensor([[30.0, 0, 0]]))
    bump = torch.zeros(1, 3, 7, 7, 7)
    bump[:, 0, 3, 3, 3] = 2.0
    met = torch.tensor([[10.0, 6.0, 4.0]], dtype=torch.float64)  # in the space of the grid
    place = AffineTransform(turn[None])(shift(met[:, None].float()))[:, 0].double()
    field = DisplacementField(bump, Grid.centered((7, 7, 7), 2.0, place))
    elsewhere = DisplacementField(bump, Grid.centered((7, 7, 7), 2.0, met + 30))
    transform = shift @ field @ AffineTransform(turn[None]) @ elsewhere @ shift
    grid = grid_around((20, 20, 20), AFFINES["RAS"] * 2, met[0].tolist())
    for block in mapped_blocks(transform, grid):
        torch.testing.assert_close(block.mapped, transform(block.points), atol=1e-4, rtol=0)
    affine = shift @ AffineTransform(turn[None]) @ shift
    points = grid.points_world()
    assert (transform(points) - affine(points)).norm(dim=-1).max() > 0.2  # an eighth of 2 mm between points


def test_few_voxels_are_mapped_by_a_field_that_ends():
    """The field is left out where it moves nothing: its grid takes a third of this one."""
    calls = []

    class Counted(Transform):
        """The field, and how many points it was asked for."""

        def __call__(self, points):
            calls.append(points[..., 0].numel())
            return flow(points)

        def inverse(self):
            raise NotImplementedError

        def to(self, device):
            raise NotImplementedError

        def support(self):
            return flow.support()

    flow = ending_flow(AFFINES["RAS"])
    list(mapped_blocks(Counted(), GRID))
    assert 0 < sum(calls) < 0.6 * GRID.points_world()[..., 0].numel()


def test_gradients_stay_enabled_between_blocks():
    for _ in mapped_blocks(rotation(), GRID):
        assert torch.is_grad_enabled()
    blocks = mapped_blocks(ending_flow(AFFINES["RAS"]), GRID)
    next(blocks)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("name", ["flow that ends", "flow that goes on", "field of zeros beyond"])
@pytest.mark.parametrize("differences", DIFFERENCES)
def test_determinants_are_those_of_the_whole_grid(linear, name, differences):
    """Brute force: determinants of finite differences at all points at once, also at the last ones."""
    transform = maps(linear)[name]
    mapped = transform(GRID.widened(1).points_world())[0].double()
    inner = [slice(1, -1)] * 3
    rows = []
    for axis in range(3):
        after, before = list(inner), list(inner)
        after[axis] = slice(2, None)
        if differences == "central":
            before[axis] = slice(0, -2)
        step = mapped[tuple(after)] - mapped[tuple(before)]
        rows.append(step / (2 if differences == "central" else 1))
    cell = torch.linalg.det(GRID.voxel_to_world[0, :3, :3])
    expected = torch.linalg.det(torch.stack(rows, -1)) / cell
    assert expected.std() > 0.01
    found = jacobian_determinant(transform, GRID, differences)
    torch.testing.assert_close(found.double(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("plane", [2, 61, 62, 63, 64, 65, 67])
def test_a_fold_is_counted_once_wherever_the_blocks_meet(plane):
    """By hand: one plane of 5 × 5 points mirrored past its neighbour folds the 16 cells behind it."""
    grid = grid_around((70, 5, 5), AFFINES["RAS"] * 2)
    displacement = torch.zeros(1, 3, 70, 5, 5)
    displacement[:, 0, plane] = 3.0
    found = folding(DisplacementField(displacement, grid), grid)
    assert (found.voxels, found.tetrahedra) == (16, 160)
    assert found.volume_mm3 == pytest.approx(64, abs=0.01)  # float32 coordinates of up to 70 mm
    assert found.voxel_share == pytest.approx(16 / (69 * 16))


def test_a_table_over_several_blocks_is_the_transform_at_its_points(linear):
    grid = grid_around((70, 6, 5), linear, (3.0, -2, 7))
    transform = rotation() @ smooth_velocity(grid_around((12, 12, 12), linear * 8), 3.0)
    table = DisplacementField.tabulate(transform, grid)
    points = grid.points_world()
    torch.testing.assert_close(points + table.displacement.movedim(1, -1), transform(points))


BOXES = [
    VoxelBox((4, 5, 6), (9, 11, 10)),  # inside
    VoxelBox((0, 5, 14), (3, 17, 20)),  # at three faces
    VoxelBox((0, 0, 0), (16, 17, 20)),  # everything
]
