"""Figures show each structure at the edge whose letter it points to, and every number where it is.

The fixed image is a dim cube with a bright cross in it: its arms reach another distance in each direction of
the world, so any axis that is swapped or turned round shows.
"""

import numpy as np
import pytest
import torch
from scipy import ndimage
from synthetic import AFFINES, grid_around, rotation

from patchmorph.images.volume import Image
from patchmorph.report import figures
from patchmorph.report.drawing import diverging
from patchmorph.report.figures import Panel
from patchmorph.report.layers import Layers, PairView
from patchmorph.report.packing import GRID_LINES
from patchmorph.report.slices import middle_slices
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.resample import resample

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


def layers_of(transform: Transform, orientation="RAS", offset=(0.0, 0.0, 0.0)) -> Layers:
    moving = cross(grid_around(SHAPE, AFFINES["LPS"] * VOXEL_MM, from_middle(*offset)), offset)
    fixed = cross(fixed_grid(orientation))
    return Layers(PairView(fixed, moving, transform, resample(moving, transform, fixed.grid)))


def shown(panel: Panel) -> np.ndarray:
    """The pixels from 0 to 1, as an array (right, up, colour)."""
    return panel.pixels[::-1].swapaxes(0, 1) / 255


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


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "LIA"])
def test_the_edges_of_every_plane_are_where_their_letters_say(orientation):
    panels = figures.comparison(layers_of(AffineTransform.identity(), orientation))
    assert len(panels) == 9
    for panel in panels:
        edges = {"right": panel.right, "up": panel.up}
        edges |= {"left": OPPOSITE[panel.right], "down": OPPOSITE[panel.up]}
        for colour in range(3):
            # Voxels are 2 mm, and the planes are those of the fixed image's own grid.
            found = shown_reach(shown(panel)[..., colour], 0.35)
            assert found == pytest.approx({edge: REACH_MM[way] for edge, way in edges.items()}, abs=2.0)


def test_the_grid_lies_over_the_fixed_image():
    layers = layers_of(rotation(10))
    for plain, lined in zip(figures.comparison(layers)[:3], figures.deformation(layers)[:3], strict=True):
        assert (plain.right, plain.up) == (lined.right, lined.up)
        between = np.ptp(lined.pixels, axis=-1) == 0
        assert 0.6 < between.mean() < 0.9
        assert np.array_equal(lined.pixels[between][:, 0], plain.pixels[between][:, 0])


def test_planes_are_named_by_the_axis_across_them():
    layers = layers_of(AffineTransform.identity())
    rows = (
        ("before, by the headers", "affine part only", "after"),
        ("deformed grid", "Jacobian determinant"),
    )
    planes = ("sagittal", "coronal", "axial")
    for draw, titles in zip((figures.comparison, figures.deformation), rows, strict=True):
        wanted = [(title, name) for title in titles for name in planes]
        for panel, (title, name) in zip(draw(layers), wanted, strict=True):
            assert panel.title == f"{name}, {title}"
            assert {AXIS[panel.right], AXIS[panel.up]} == {0, 1, 2} - {planes.index(name)}


def test_before_and_after_show_the_moving_image_in_green_by_headers_and_through_the_map():
    """The moving cross lies off by a few mm: it is displayed there before, and over the fixed one after."""
    offset = (6.0, -8.0, 4.0)
    shift = AffineTransform.translation(torch.tensor([offset], dtype=torch.float64))
    panels = figures.comparison(layers_of(shift, offset=offset))
    assert len(panels) == 9
    for number, panel in enumerate(panels):
        picture = shown(panel)
        assert np.array_equal(picture[..., 0], picture[..., 2])  # fixed: red and blue, magenta
        fixed, moving = (np.argwhere(picture[..., k] > 0.2) for k in (0, 1))
        mm = 2 * CUBE_MM / np.ptp(fixed[:, 0])
        found = (np.ptp(moving, axis=0) / 2 + moving.min(0) - np.ptp(fixed, axis=0) / 2 - fixed.min(0)) * mm
        expected = [0.0, 0.0] if number >= 3 else [offset[AXIS[edge]] for edge in (panel.right, panel.up)]
        # The larger of two crosses may leave the plane's box by a margin of 4 mm: half of the rest is lost.
        assert found == pytest.approx(expected, abs=3.0 if number < 3 else 1.0)


def stretching() -> DisplacementField:
    """About the middle x goes to 1.5 x on the right, to x / 2 on the left; z turns round above 14 mm."""
    grid = grid_around((61, 61, 61), np.eye(3) * 2, MIDDLE)
    x, _, z = (grid.points_world()[0] - torch.tensor(MIDDLE)).unbind(-1)
    u = torch.stack([torch.where(x > 0, 0.5 * x, -0.5 * x), 0 * x, -1.5 * (z - 14).clamp(min=0)])
    return DisplacementField(u[None].float(), grid)


def log_jacobian(panel: Panel) -> np.ndarray:
    """The logarithms that an array of colours means, over grey: from the difference of red and blue."""
    values = np.linspace(-2, 2, 401)
    colours = diverging(values[None], 2.0)[0]
    picture = shown(panel)
    difference = (picture[..., 0] - picture[..., 2]) / figures.OPACITY
    # Deepest colours differ less in red and blue than those before them: only what lies between is unique.
    unique = np.abs(values) <= 1.3
    return np.interp(difference, (colours[:, 0] - colours[:, 2])[unique], values[unique])


def test_the_jacobian_is_red_where_the_moving_image_is_larger_and_outlined_where_it_folds():
    for panel in figures.deformation(layers_of(stretching()))[3:]:
        picture = shown(panel)
        width, height, _ = picture.shape
        outline = np.argwhere((picture == (1, 1, 0)).all(-1))
        if panel.up == "S":
            # From the middle of the cube 14 of the 44 mm (cube and margin) up.
            assert outline[:, 1].min() / height == pytest.approx(0.5 + 14 / 88, abs=0.03)
            assert np.ptp(outline[:, 1]) < 0.05 * height
            assert np.ptp(outline[:, 0]) > 0.9 * width
            top = picture[width // 8 : -width // 8, int(0.85 * height) : int(0.93 * height)]  # of the cube
            blue = top[..., 2] - top[..., 0]
            assert blue.min() > 0.25  # no logarithm of a negative volume
        else:
            assert not len(outline)
        if panel.right == "R":
            log = log_jacobian(panel)
            # A byte of colour is 0.01 of the logarithm.
            assert np.median(log[-width // 3 :, : height // 2]) == pytest.approx(np.log2(1.5), abs=0.03)
            assert np.median(log[: width // 3, : height // 2]) == pytest.approx(-1, abs=0.03)


def line_step(layers: Layers) -> float:
    """Pixels between two lines of an undeformed grid."""
    return max(layers.lattice.shape) / GRID_LINES * middle_slices(layers)[0].zoom


def line_places(panel: Panel, across: int) -> np.ndarray:
    """Where lines cross a row (0) or a column (1) of dark pixels near the edge, to a part of a pixel."""
    picture = shown(panel)
    yellow = (picture[..., 0] - picture[..., 2]).clip(min=0)
    strip = yellow[:, 3:9] if across == 0 else yellow[3:9].swapaxes(0, 1)
    # Where a line of the other direction runs, all pixels of a row or column are yellow.
    profile = strip[:, strip.mean(0).argmin()]
    labels, count = ndimage.label(profile > 0.1)
    inner = [k for k in range(1, count + 1) if not {0, len(profile) - 1} & set(np.flatnonzero(labels == k))]
    return np.array([ndimage.center_of_mass(profile, labels, k)[0] for k in inner])


@pytest.mark.parametrize("affine", [AffineTransform.identity(), rotation(15)], ids=["none", "rotation"])
def test_grid_lines_stand_closer_where_the_map_stretches_and_leave_the_affine_part_out(affine):
    axial_layers = layers_of(affine @ stretching())
    axial = figures.deformation(axial_layers)[2]
    assert (axial.right, axial.up) == ("R", "A")
    step = line_step(axial_layers)
    found = np.diff(line_places(axial, 0))
    assert np.median(found[-5:]) == pytest.approx(step / 1.5, rel=0.05)
    assert np.median(found[:3]) == pytest.approx(step * 2, rel=0.05)
    assert np.diff(line_places(axial, 1)) == pytest.approx(step, rel=0.05)


def test_an_affine_map_leaves_the_grid_straight():
    layers = layers_of(rotation(15))
    for panel in figures.deformation(layers)[:3]:
        for across in (0, 1):
            places = line_places(panel, across)
            # Bytes of colour place a line to a tenth of a pixel.
            assert len(places) > 15
            assert np.diff(places) == pytest.approx(line_step(layers), abs=0.1)


def test_a_figure_is_grey_where_both_images_agree():
    fixed = cross(fixed_grid("RAS"))
    for panel in figures.comparison(Layers(PairView(fixed, fixed, AffineTransform.identity(), fixed))):
        pixels = panel.pixels.astype(int)
        assert (pixels[0, 0] == 0).all()
        assert np.ptp(pixels, axis=-1).max() == 0
        # Dim squares of 35 % of white fill most of the picture, bright arms some of it.
        assert (abs(pixels.max(-1) - 0.35 * 255) < 2).mean() > 0.5
        assert (pixels.max(-1) > 250).mean() > 0.03
