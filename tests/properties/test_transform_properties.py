"""What holds for every map: inverses, composition, storage in blocks."""

import torch
from drawn import affines, chains, few, flows, grids, points_in, seeds
from hypothesis import given

from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import compose
from patchmorph.transforms.blocks import mapped_blocks, mapped_points
from patchmorph.transforms.jacobian import jacobian_determinant

BRAIN = Grid.centered((9, 9, 9), 10.0, torch.zeros(1, 3))


def distance_mm(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm(dim=-1).max())


@given(affines(), seeds)
def test_an_affine_map_and_its_inverse_are_the_identity(affine, seed):
    points = points_in(BRAIN, seed)
    assert distance_mm(affine.inverse()(affine(points)), points) < 1e-3
    assert distance_mm(affine(affine.inverse()(points)), points) < 1e-3


@few
@given(flows(), seeds)
def test_a_flow_and_its_inverse_are_the_identity(flow, seed):
    points = points_in(BRAIN, seed)
    assert distance_mm(flow.inverse()(flow(points)), points) < 0.03
    assert distance_mm(flow(flow.inverse()(points)), points) < 0.03
    assert distance_mm(flow.inverse().inverse()(points), flow(points)) < 1e-4


@few
@given(chains(), seeds)
def test_the_inverse_of_a_chain_is_the_chain_of_inverses(chain, seed):
    points = points_in(BRAIN, seed)
    inverses = compose(*(part.inverse() for part in reversed(chain.parts())))
    assert distance_mm(chain.inverse()(points), inverses(points)) < 1e-3
    assert distance_mm(chain.inverse()(chain(points)), points) < 0.1


@few
@given(chains(), chains(), chains(), seeds)
def test_composition_is_associative_and_applies_the_right_one_first(a, b, c, seed):
    points = points_in(BRAIN, seed)
    expected = a(b(c(points)))
    assert distance_mm(((a @ b) @ c)(points), expected) < 5e-3
    assert distance_mm((a @ (b @ c))(points), expected) < 5e-3
    assert distance_mm(compose(a, b, c)(points), expected) < 5e-3


@few
@given(chains(), grids(least=2, most=9))
def test_a_grid_is_mapped_as_its_points_whole_and_by_blocks(chain, grid):
    expected = chain(grid.points_world())
    assert distance_mm(chain.at_grid(grid), expected) < 5e-3
    assert distance_mm(mapped_points(chain, grid), expected) < 5e-3
    for block in mapped_blocks(chain, grid):  # between every few voxels, where a spline is much coarser
        assert distance_mm(block.mapped, expected[(slice(None), *block.box.slices)]) < 0.05


@given(affines(), grids(least=3, most=6))
def test_the_jacobian_of_an_affine_map_is_its_determinant(affine, grid):
    found = jacobian_determinant(affine, grid)
    expected = torch.linalg.det(affine.matrix[:, :3, :3]).float().expand_as(found)
    # central differences of float32 points, whose steps are 2e-5 mm
    tolerance = max(1e-3, 2e-3 / float(grid.spacing_mm.min()))
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)
