"""Figures show each structure at the edge whose letter it points to, and every number where it is.

The fixed image is a dim cube with a bright cross in it: its arms reach another distance in each direction of
the world, so any axis that is swapped or turned round shows.
"""

import io

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from synthetic import AFFINES, grid_around, rotation

from patchmorph.images.volume import Image
from patchmorph.report import figures
from patchmorph.report.figures import PairView
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.displacement import DisplacementField

CUBE_MM = 40.0
"""Half a side of the dim cube."""
REACH_MM = {"R": 24.0, "L": 12.0, "A": 33.0, "P": 9.0, "S": 18.0, "I": 6.0}
AXIS = {"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}
VOXEL_MM = 2.0
MIDDLE = (40.0, -70.0, 25.0)
"""Of the cross in the world: another place along each axis."""
SHAPE = (48, 50, 46)


def from_middle(*offset: float) -> tuple[float, ...]:
    return tuple(a + b for a, b in zip(MIDDLE, offset, strict=True))


def cross(grid: Grid, offset=(0.0, 0.0, 0.0)) -> Image:
    """The cross, ``offset`` (mm) off its place, as a function of the world."""
    points = grid.points_world()[0] - torch.tensor(from_middle(*offset))
    bright = torch.zeros(grid.shape, dtype=torch.bool)
    for axis, (positive, negative) in enumerate((("R", "L"), ("A", "P"), ("S", "I"))):
        others = [k for k in range(3) if k != axis]
        near = (points[..., others].abs() < 5).all(-1)
        bright |= near & (points[..., axis] < REACH_MM[positive]) & (points[..., axis] > -REACH_MM[negative])
    inside = (points.abs() < CUBE_MM).all(-1)
    return Image((0.35 * inside + 0.65 * bright)[None, None], grid, "cross")


def fixed_grid(orientation: str) -> Grid:
    return grid_around(SHAPE, AFFINES[orientation] * VOXEL_MM, from_middle(0.3, -0.2, 0.1))


def view_of(transform: Transform, orientation="RAS", offset=(0.0, 0.0, 0.0)) -> PairView:
    moving = cross(grid_around(SHAPE, AFFINES["LPS"] * VOXEL_MM, from_middle(*offset)), offset)
    return PairView(cross(fixed_grid(orientation)), moving, transform)


def letters(axes) -> tuple[str, str]:
    """What stands at the right and at the upper edge."""
    right = [text.get_text() for text in axes.texts if text.get_position()[0] > 0.9]
    up = [text.get_text() for text in axes.texts if text.get_position()[1] > 0.9]
    assert len(right) == len(up) == 1
    return right[0], up[0]


def upright(axes, picture: np.ndarray) -> np.ndarray:
    """A picture of ``axes`` as it is displayed, an array (right, up); rows and columns count pixels."""
    right, up = axes.transData.transform((1, 1)) - axes.transData.transform((0, 0))
    rows_up = picture if up > 0 else picture[::-1]
    return (rows_up if right > 0 else rows_up[:, ::-1]).swapaxes(0, 1)


def shown_reach(shown: np.ndarray, dim: float) -> dict[str, float]:
    """How far bright pixels go from the middle of the dim square, in mm."""
    reach = {}
    for axis, (after, before) in enumerate((("right", "left"), ("up", "down"))):
        square = np.flatnonzero((shown > dim / 2).any(1 - axis))
        bright = np.flatnonzero((shown > 2 * dim).any(1 - axis))
        mm = 2 * CUBE_MM / (square[-1] - square[0] + 1)
        middle = (square[0] + square[-1]) / 2
        reach[after], reach[before] = (bright[-1] - middle) * mm, (middle - bright[0]) * mm
    return reach


OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}


def check_reach(axes, shown: np.ndarray) -> None:
    right, up = letters(axes)
    expected = {"right": right, "left": OPPOSITE[right], "up": up, "down": OPPOSITE[up]}
    # Voxels are 2 mm; edges are interpolated.
    found = shown_reach(shown, 0.35)
    assert found == pytest.approx({edge: REACH_MM[letter] for edge, letter in expected.items()}, abs=1.5)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LIA"])
def test_the_edges_of_every_plane_are_where_their_letters_say(orientation):
    view = view_of(AffineTransform.identity(), orientation)
    comparison, deformation = figures.comparison(view), figures.deformation(view)
    for figure, channels in ((comparison, (0, 1, 2)), (deformation, (None,))):
        assert len(figure.axes) == 6
        for axes in figure.axes:
            for channel in channels:
                picture = np.asarray(axes.images[0].get_array(), dtype=float)
                check_reach(axes, upright(axes, picture if channel is None else picture[..., channel]))


def test_planes_are_named_by_the_axis_across_them():
    view = view_of(AffineTransform.identity())
    rows = (("before, by the headers", "after"), ("deformed grid", "log₂ Jacobian"))
    planes = ("sagittal", "coronal", "axial")
    for draw, titles in zip((figures.comparison, figures.deformation), rows, strict=True):
        wanted = [(title, name) for title in titles for name in planes]
        for axes, (title, name) in zip(draw(view).axes, wanted, strict=True):
            assert axes.get_title() == f"{name}, {title}"
            assert {AXIS[letter] for letter in letters(axes)} == {0, 1, 2} - {planes.index(name)}


def test_before_and_after_show_the_moving_image_in_green_by_headers_and_through_the_map():
    """The moving cross lies off by a few mm: it is displayed there before, and over the fixed one after."""
    offset = (6.0, -8.0, 4.0)
    shift = AffineTransform.translation(torch.tensor([offset], dtype=torch.float64))
    figure = figures.comparison(view_of(shift, offset=offset))
    assert len(figure.axes) == 6
    for number, axes in enumerate(figure.axes):
        picture = upright(axes, np.asarray(axes.images[0].get_array(), dtype=float))
        assert np.array_equal(picture[..., 0], picture[..., 2])  # fixed: red and blue, magenta
        fixed, moving = (np.argwhere(picture[..., k] > 0.2) for k in (0, 1))
        mm = 2 * CUBE_MM / np.ptp(fixed[:, 0])
        found = (np.ptp(moving, axis=0) / 2 + moving.min(0) - np.ptp(fixed, axis=0) / 2 - fixed.min(0)) * mm
        expected = [0.0, 0.0] if number >= 3 else [offset[AXIS[letter]] for letter in letters(axes)]
        # The larger of two crosses may leave the plane's box by a margin of 4 mm: half of the rest is lost.
        assert found == pytest.approx(expected, abs=3.0 if number < 3 else 1.0)


def stretching() -> DisplacementField:
    """About the middle x goes to 1.5 x on the right, to x / 2 on the left; z turns round above 14 mm."""
    grid = grid_around((61, 61, 61), np.eye(3) * 2, MIDDLE)
    x, _, z = (grid.points_world()[0] - torch.tensor(MIDDLE)).unbind(-1)
    u = torch.stack([torch.where(x > 0, 0.5 * x, -0.5 * x), 0 * x, -1.5 * (z - 14).clamp(min=0)])
    return DisplacementField(u[None].float(), grid)


def test_the_jacobian_is_red_where_the_moving_image_is_larger_and_outlined_where_it_folds():
    figure = figures.deformation(view_of(stretching()))
    for axes in figure.axes[3:]:
        log = upright(axes, np.asarray(axes.images[1].get_array(), dtype=float))
        red, _, blue = axes.images[1].cmap(axes.images[1].norm(np.array([1.0, 0.0, -1.0])))[:, :3].T
        assert red[0] > 1.5 * blue[0]  # growth
        assert red[1] == pytest.approx(blue[1], abs=0.02)
        assert blue[2] > 1.5 * red[2]  # shrinkage
        right, up = letters(axes)
        width, height = log.shape
        folds = [c for c in axes.collections if np.allclose(c.get_edgecolor()[:, :3], (1, 1, 0))]
        if up == "S":
            (fold,) = folds
            assert log[:, -10:] == pytest.approx(-4)  # no logarithm of a negative volume
            outline = np.concatenate([path.vertices for path in fold.get_paths()])
            # From the middle of the cube 14 of the 44 mm (cube and margin) up.
            assert outline[:, 1].mean() / height == pytest.approx(0.5 + 14 / 88, abs=0.03)
        else:
            assert not folds
        if right == "R":
            assert np.median(log[-width // 3 :, : height // 2]) == pytest.approx(np.log2(1.5), abs=0.01)
            assert np.median(log[: width // 3, : height // 2]) == pytest.approx(-1, abs=0.01)


def gaps(collection, along: int) -> np.ndarray:
    """Distances in pixels between the lines of a contour: one path a level."""
    places = [np.median(path.vertices[:, along]) for path in collection.get_paths() if len(path.vertices)]
    return np.diff(sorted(places))


@pytest.mark.parametrize("affine", [AffineTransform.identity(), rotation(15)], ids=["none", "rotation"])
def test_grid_lines_stand_closer_where_the_map_stretches_and_leave_the_affine_part_out(affine):
    figure = figures.deformation(view_of(affine @ stretching()))
    axial = figure.axes[2]
    assert letters(axial) == ("R", "A")
    across_right, across_up = axial.collections
    found = gaps(across_right, 0)
    longest = max(np.asarray(axial.images[0].get_array()).shape)
    step = longest / figures.GRID_LINES
    assert np.median(found[-5:]) == pytest.approx(step / 1.5, rel=0.05)
    assert np.median(found[:3]) == pytest.approx(step * 2, rel=0.05)
    assert gaps(across_up, 1) == pytest.approx(step, rel=0.05)


def test_an_affine_map_leaves_the_grid_straight():
    figure = figures.deformation(view_of(rotation(15)))
    for axes in figure.axes[:3]:
        longest = max(np.asarray(axes.images[0].get_array()).shape)
        for along, collection in enumerate(axes.collections):
            assert gaps(collection, along) == pytest.approx(longest / figures.GRID_LINES, rel=1e-3)


def test_a_figure_is_a_picture_and_grey_where_both_images_agree():
    fixed = cross(fixed_grid("RAS"))
    data = figures.png(figures.comparison(PairView(fixed, fixed, AffineTransform.identity())))
    picture = Picture.open(io.BytesIO(data))
    assert picture.format == "PNG"
    pixels = np.asarray(picture.convert("RGB"), dtype=int)
    assert pixels.shape == (760, 1100, 3)
    assert (pixels[0, 0] == 0).all()
    assert np.ptp(pixels, axis=-1).max() <= 1  # rounding
    # Dim squares of 35 % of white fill a good part of the page, bright arms some of them.
    assert (abs(pixels.max(-1) - 0.35 * 255) < 2).mean() > 0.2
    assert (pixels.max(-1) > 250).mean() > 0.02
