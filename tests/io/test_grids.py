import pytest
import torch
from synthetic import AFFINES, grid_around, rotation, smooth_velocity

from patchmorph.errors import PatchMorphError
from patchmorph.io.grids import GridPair, check_square, matrix_of
from patchmorph.io.transforms.parts import displacement_field, linear_part

FIXED, MOVING = grid_around((4, 5, 6), AFFINES["LAS"]), grid_around((7, 6, 5), AFFINES["LIA"] * 2)


def test_the_pair_of_an_inverse_is_the_other_way_round():
    """With the options that give each image: they stay with it."""
    pair = GridPair(FIXED, MOVING, ("--fixed", "--moving"))
    swapped = pair.swapped()
    assert swapped.fixed is MOVING
    assert swapped.moving is FIXED
    assert swapped.options == ("--moving", "--fixed")
    assert swapped.swapped() == pair
    with pytest.raises(PatchMorphError, match=r"x must be given the fixed image \(--moving;"):
        GridPair(FIXED, None, ("--fixed", "--moving")).swapped().need_fixed("x")


def test_what_is_missing_is_named():
    assert GridPair(FIXED).need_fixed("x") is FIXED
    assert GridPair(None, MOVING).need_moving("x") is MOVING
    with pytest.raises(PatchMorphError, match=r"warp a\.mgz must be given the moving image \(--moving;"):
        GridPair(FIXED).need_moving("warp a.mgz")
    with pytest.raises(PatchMorphError, match=r"must be given the fixed image \(--reference;"):
        GridPair(None, MOVING).need_fixed("warp a.mgz")


def test_a_field_from_a_file_stands_on_the_grid_of_its_matrix():
    grid = grid_around((4, 5, 6), AFFINES["oblique"] * 3, (7.0, -2, 5))
    vectors = torch.rand(4, 5, 6, 3, generator=torch.Generator().manual_seed(0)) * 10
    field = displacement_field(vectors.numpy(), matrix_of(grid))
    points = grid.points_world()
    torch.testing.assert_close(field(points), points + vectors, atol=1e-4, rtol=0)
    assert field.outside == "zeros"


def test_only_affine_maps_fit_a_matrix():
    torch.testing.assert_close(torch.from_numpy(linear_part(rotation(), "x")), rotation().matrix[0])
    flow = smooth_velocity(grid_around((6, 6, 6), AFFINES["RAS"]), 1.0)
    with pytest.raises(PatchMorphError, match="LTA x must get an affine transform, got one with 2 fields"):
        linear_part(flow @ rotation() @ flow, "LTA x")


def test_shear_is_seen_between_any_two_axes(linear):
    check_square(grid_around((4, 4, 4), linear), "x")
    for row, column in ((0, 1), (0, 2), (1, 2)):
        sheared = torch.eye(3, dtype=torch.float64).numpy()
        sheared[row, column] = 0.01
        with pytest.raises(PatchMorphError, match="x must be on a grid without shear"):
            check_square(grid_around((4, 4, 4), linear @ sheared), "x")
