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
