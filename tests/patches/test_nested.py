from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from patchmorph.patches.nested import draw_placement, nested_chain


@given(seed=st.integers(0, 10_000), inward=st.floats(0, 1))
def test_each_child_lies_inside_its_parent(seed, inward):
    placement = draw_placement(3, 4, torch.Generator().manual_seed(seed))
    chain = nested_chain(torch.randn(4, 3) * 20, placement, 16, [4.0, 2.0, 1.0], inward)
    for parent, child in pairwise(chain):
        index = parent.to_voxel(child.points_world())
        # Faces are half a parent voxel beyond the outermost centres; 1e-3 for float32 rounding.
        assert index.min() >= -0.5 - 1e-3
        assert index.max() <= 15.5 + 1e-3


def test_children_reach_the_faces_of_their_parent():
    corner = torch.ones(1, 1, 3)
    parent, child = nested_chain(torch.zeros(1, 3), corner, 16, [4.0, 1.0])
    upper = [
        grid.points_world().amax((0, 1, 2, 3)) + grid.spacing_mm[0].float() / 2 for grid in (parent, child)
    ]
    torch.testing.assert_close(upper[0], upper[1])


def test_every_scale_has_the_same_number_of_voxels():
    chain = nested_chain(torch.zeros(2, 3), torch.zeros(2, 2, 3), 16, [4.0, 2.0, 1.0])
    assert [grid.shape for grid in chain] == [(16, 16, 16)] * 3
    assert [grid.spacing_mm[0, 0].item() for grid in chain] == [4.0, 2.0, 1.0]


def test_inward_holds_for_the_first_child_only():
    """By hand, for patches of 16 voxels of 4, 2 and 1 mm: the slack is 16 mm, then 8 mm."""
    corner = torch.ones(1, 2, 3) * torch.tensor([1.0, -1.0, 0.5])
    centers = [
        grid.center_world[0].tolist()
        for grid in nested_chain(torch.tensor([[10.0, 20, 30]]), corner, 16, [4.0, 2.0, 1.0], inward=0.25)
    ]
    assert centers == [[10, 20, 30], [14, 16, 32], [22, 8, 36]]


def test_placements_are_spread_over_the_whole_parent():
    drawn = draw_placement(3, 500, torch.Generator().manual_seed(0))
    assert drawn.shape == (500, 2, 3)
    assert drawn.amin() < -0.99 < 0.99 < drawn.amax()
    # 500 uniform numbers: the mean's deviation is 0.026.
    assert drawn.mean(0).abs().max() < 0.1
