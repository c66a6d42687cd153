import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from patchmorph.patches.blending import Blend, rim, smooth, total_weight, window
from patchmorph.patches.lattice import PatchLattice, fitted_patch

boxes = st.lists(st.floats(5, 200), min_size=3, max_size=3)


def lattice_over(extent, overlap=0.5, jitter=None, width=8, spacing=4.0):
    upper = torch.tensor(extent, dtype=torch.float64)
    return PatchLattice.cover(
        torch.stack([-upper / 3, upper * 2 / 3]), spacing, (width,) * 3, overlap, jitter
    )


@given(extent=boxes, overlap=st.floats(0, 0.8), seed=st.none() | st.integers(0, 1000))
def test_patches_cover_the_box_with_or_without_jitter(extent, overlap, seed):
    jitter = None if seed is None else torch.Generator().manual_seed(seed)
    lattice = lattice_over(extent, overlap, jitter)
    covered = torch.zeros(lattice.grid.shape, dtype=torch.bool)
    for start in lattice.starts:
        assert all(first >= 0 for first in start)
        block = covered[lattice.block(start)]
        assert block.shape == (8, 8, 8)
        block[:] = True
    assert covered.all()
    # The lattice's outer faces, half a voxel (2 mm) beyond the outermost centres, hold the box.
    corners = lattice.grid.corners_world()[0]
    upper = torch.tensor(extent, dtype=torch.float64)
    assert (corners.amin(0) - 2 <= -upper / 3 + 1e-6).all()
    assert (corners.amax(0) + 2 >= upper * 2 / 3 - 1e-6).all()


@given(extent=boxes, seed=st.none() | st.integers(0, 1000))
def test_blending_weights_sum_to_one(extent, seed):
    lattice = lattice_over(extent, 0.5, None if seed is None else torch.Generator().manual_seed(seed))
    blend = Blend(lattice)
    starts = lattice.starts
    blend.add(starts, torch.ones(len(starts), 3, 8, 8, 8))
    torch.testing.assert_close(blend.velocity(), torch.ones_like(blend.velocity()))
    assert total_weight(lattice).min() > 0


def test_jitter_moves_patches_and_follows_its_generator():
    first, again = (lattice_over([150, 150, 150], jitter=torch.Generator().manual_seed(1)) for _ in range(2))
    assert first.starts == again.starts
    assert first.starts != lattice_over([150, 150, 150]).starts


def test_a_region_lies_on_its_velocity_voxels():
    lattice = lattice_over([100, 120, 90])
    start = lattice.starts[-1]
    origin, region = lattice.region([start], 2)
    assert origin == start
    assert region.shape == (16, 16, 16)
    block = lattice.grid.points_world()[(0, *lattice.block(start))]
    torch.testing.assert_close(region.coarsen(2).points_world()[0], block)


def test_a_region_holds_the_patches_of_its_row():
    lattice = lattice_over([100, 120, 90])
    row = lattice.rows[1]
    origin, region = lattice.region(row, 2)
    points = region.points_world()[0]
    for start in row:
        alone = lattice.region([start], 2)[1].points_world()[0]
        torch.testing.assert_close(points[lattice.block(start, origin, 2)], alone)


def test_trimming_keeps_the_box():
    lattice = lattice_over([20, 60, 30], width=16)
    box = torch.tensor([[-6.0, -19, -9], [13, 40, 20]], dtype=torch.float64)
    block, grid = lattice.trim(box)
    torch.testing.assert_close(grid.points_world()[0], lattice.grid.points_world()[(0, *block.slices)])
    assert grid.shape[0] < lattice.grid.shape[0]
    corners = grid.corners_world()[0]
    assert (corners.amin(0) <= box[0]).all()
    assert (corners.amax(0) >= box[1]).all()


def test_the_window_is_positive_and_symmetric():
    weights = window((8, 8, 8), torch.device("cpu"))
    assert weights.min() > 0
    torch.testing.assert_close(weights, weights.flip(0, 1, 2))


def test_smoothing_has_the_deviation_that_it_says_and_keeps_the_sum():
    impulse = torch.zeros(1, 3, 9, 9, 9)
    impulse[:, :, 4, 4, 4] = 1
    spread = smooth(impulse, 0.5)[0, 0]
    torch.testing.assert_close(spread.sum(), torch.tensor(1.0))
    distance = (torch.arange(9.0) - 4).square()
    for axes in ((1, 2), (0, 2), (0, 1)):
        torch.testing.assert_close((spread.sum(axes) * distance).sum(), torch.tensor(0.25))
    torch.testing.assert_close(smooth(torch.ones(1, 3, 4, 5, 6), 0.5), torch.ones(1, 3, 4, 5, 6))


@pytest.mark.parametrize("width", [1, 3])
def test_the_rim_vanishes_outside_and_is_one_inside(width):
    weights = rim((9, 10, 11), width, torch.device("cpu"))
    assert weights[0].max() == weights[:, -1].max() == 0
    torch.testing.assert_close(weights[width:-width, width:-width, width:-width].min(), torch.tensor(1.0))


@pytest.mark.parametrize(
    ("overlap", "starts"), [(0.0, [0, 8, 16]), (0.5, [0, 4, 8, 12, 16]), (0.75, list(range(0, 17, 2)))]
)
def test_the_overlap_sets_the_number_of_patches(overlap, starts):
    """By hand: 24 velocity voxels along the first axis, patches of 8."""
    lattice = lattice_over([96, 32, 32], overlap)
    assert lattice.grid.shape == (24, 8, 8)
    assert lattice.starts == [(first, 0, 0) for first in starts]


@given(extent=boxes, overlap=st.floats(0, 0.8))
def test_neighbours_share_at_least_the_overlap(extent, overlap):
    lattice = lattice_over(extent, overlap)
    for axis in range(3):
        firsts = sorted({start[axis] for start in lattice.starts})
        for before, after in pairwise(firsts):
            # A stride is a whole number of voxels, at least one; evenly spread starts are rounded.
            assert after - before <= max(1, math.floor(8 * (1 - overlap))) + 1


def test_a_lattice_is_as_large_as_its_box_along_each_axis():
    lattice = lattice_over([100, 40, 20])
    assert lattice.grid.shape == (25, 10, 8)
    torch.testing.assert_close(lattice.grid.spacing_mm, torch.full((1, 3), 4.0, dtype=torch.float64))
    middle = torch.tensor([[100.0, 40, 20]], dtype=torch.float64) / 6
    torch.testing.assert_close(lattice.grid.center_world, middle)


def test_jitter_leaves_the_outer_patches_and_moves_the_inner_ones_by_half_of_what_is_shared():
    plain = lattice_over([160, 32, 32], 0.5)
    shifts = set()
    for seed in range(20):
        moved = lattice_over([160, 32, 32], 0.5, torch.Generator().manual_seed(seed))
        assert moved.starts[0] == plain.starts[0]
        assert moved.starts[-1] == plain.starts[-1]
        shifts |= {b[0] - a[0] for a, b in zip(plain.starts[1:-1], moved.starts[1:-1], strict=True)}
        assert all(start[1:] == (0, 0) for start in moved.starts)
    assert shifts == {-2, -1, 0, 1, 2}  # patches of 8, 4 apart: 4 are shared


@given(extent=boxes, sides=st.tuples(*[st.sampled_from([4, 6, 8, 10])] * 3), inset=st.integers(0, 4))
def test_patches_of_any_shape_cover_the_box_but_for_its_rim(extent, sides, inset):
    box = torch.tensor([[0.0, 0, 0], extent], dtype=torch.float64)
    lattice = PatchLattice.cover(box, 4.0, sides, 0.25, inset=inset)
    covered = torch.zeros(lattice.grid.shape, dtype=torch.bool)
    for start in lattice.starts:
        assert covered[lattice.block(start)].shape == sides
        covered[lattice.block(start)] = True
    inner = tuple(slice(min(inset, n // 2), max(n - inset, n // 2)) for n in lattice.grid.shape)
    assert covered[inner].all()


@pytest.mark.parametrize(
    ("voxels", "inset", "expected"),
    [
        (40, 0, 40),  # one patch
        (77, 0, 40),  # two that share three voxels
        (78, 0, 48),  # which 78 leave too few of
        (78, 1, 40),  # the rim needs no patch
        (95, 0, 56),  # 2 * 56 = 112 before 3 * 40 = 120
        (20, 0, 32),
        (125, 0, 48),  # 3 * 48 = 144 before 4 * 40 and 3 * 56
    ],
)
def test_patches_fit_a_box_by_the_fewest_voxels(voxels, inset, expected):
    """By hand, with sides of 32 to 56 velocity voxels and an overlap of a sixteenth."""
    box = torch.tensor([[0.0, 0, 0], [4.0 * voxels] * 3], dtype=torch.float64)
    assert fitted_patch(box, 4.0, (32, 40, 48, 56), 1 / 16, inset) == (expected,) * 3


def test_a_box_that_is_longer_along_one_axis_gets_longer_patches_there():
    box = torch.tensor([[0.0, 0, 0], [80.0, 101, 79]], dtype=torch.float64)
    assert fitted_patch(box, 1.0, (32, 40, 48, 56), 1 / 16, inset=3) == (40, 56, 40)
    assert fitted_patch(box, 1.0, (32,), 1 / 16, inset=3) == (32, 32, 32)


@pytest.mark.parametrize(("voxels", "expected"), [((40, 50, 39), (40, 32, 40)), ((40, 40, 40), (40, 40, 40))])
def test_two_patches_are_better_than_one_of_nearly_as_many_voxels(voxels, expected):
    """By hand: 2 * 32 for 56 along the second axis; 2 * 32 for 40 would be too many."""
    box = torch.tensor([[0.0, 0, 0], voxels], dtype=torch.float64)
    assert fitted_patch(box, 1.0, (32, 40, 48, 56), 1 / 16) == expected
