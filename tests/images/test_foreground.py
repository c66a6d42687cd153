"""The content of normalised images: what is one piece of it, and where it lies."""

import pytest
import torch
from scans import GRIDS, SHAPES, scan, tube
from synthetic import AFFINES, grid_around

from patchmorph.images.foreground import FRAGMENT_FRACTION, find_content, find_main_content, find_surroundings
from patchmorph.images.intensity import Masked
from patchmorph.images.volume import Image


def balls(*spheres: tuple[float, tuple[float, float, float]], linear="RAS", spacing_mm=3.0) -> Image:
    """One in balls of a radius around a centre in mm, zero elsewhere."""
    grid = grid_around((64, 64, 64), AFFINES[linear] * spacing_mm)
    values = torch.zeros(1, 1, *grid.shape)
    for radius_mm, center in spheres:
        values[((grid.points_world() - torch.tensor(center)).norm(dim=-1) < radius_mm)[:, None]] = 1
    return Image(values, grid)


@pytest.mark.parametrize("linear", GRIDS)
@pytest.mark.parametrize("kind", SHAPES)
def test_clean_images_have_nothing_to_leave_out(kind, linear):
    assert find_main_content(scan(kind, linear).normalized()) is None


def test_an_image_without_foreground_has_nothing_to_leave_out():
    assert (
        find_main_content(Image(torch.zeros(1, 1, 8, 8, 8), grid_around((8, 8, 8), AFFINES["RAS"]))) is None
    )


@pytest.mark.parametrize("linear", GRIDS)
@pytest.mark.parametrize(
    ("radius_mm", "is_left_out"), [(6.0, True), (20.0, True), (24.0, False), (50.0, False)]
)
def test_pieces_are_left_out_by_their_size(linear, radius_mm, is_left_out):
    """The largest ball has 50 mm: one of 21.5 mm has 8 % of its volume."""
    far = (55.0, 40.0, -30.0)
    image = balls((50, (-30.0, 0, 0)), (radius_mm, far), linear=linear)
    mask = find_main_content(image)
    assert (mask is not None) is is_left_out
    if mask is not None:
        middles = torch.tensor([[far, (-30.0, 0.0, 0.0), (19.0, 0.0, 0.0)]])
        assert mask.sample(middles, 3.0).flatten().tolist() == pytest.approx([0, 1, 1])
    assert (20 / 50) ** 3 < FRAGMENT_FRACTION < (24 / 50) ** 3


def test_several_pieces_are_compared_with_the_largest():
    image = balls((40, (-45.0, 0, 0)), (25, (50.0, 0, 0)), (9, (0.0, 75, 0)), (9, (0.0, -75, 0)))
    mask = find_main_content(image)
    assert mask is not None
    centers = torch.tensor([[(-45.0, 0, 0), (50.0, 0, 0), (0.0, 75, 0), (0.0, -75, 0)]])
    assert mask.sample(centers, 3.0).flatten().tolist() == pytest.approx([1, 1, 0, 0])


def test_pieces_that_touch_at_a_corner_are_one():
    values = torch.zeros(1, 1, 64, 64, 64)
    values[..., 10:40, 10:40, 10:40] = 1
    values[..., 40:44, 40:44, 40:44] = 1
    assert find_main_content(Image(values, grid_around((64, 64, 64), AFFINES["RAS"]))) is None


def test_the_kept_pieces_keep_voxels_that_are_partly_inside():
    """The mask reaches one voxel beyond the foreground, and no further."""
    values = torch.zeros(1, 1, 64, 64, 64)
    values[..., 10:40, 10:40, 10:40] = 1
    values[..., 55, 55, 55] = 1
    image = Image(values, grid_around((64, 64, 64), AFFINES["RAS"]))
    mask = find_main_content(image)
    assert mask is not None
    expected = torch.zeros_like(values)
    expected[..., 9:41, 9:41, 9:41] = 1
    assert torch.equal(mask.data, expected)


@pytest.mark.parametrize("linear", GRIDS)
@pytest.mark.parametrize("kind", SHAPES)
def test_without_a_marker_the_content_is_where_it_was(kind, linear):
    plain = scan(kind, linear).normalized()
    marked = Image(torch.where(tube(scan(kind, linear), 0.008), 1.0, plain.values()), plain.grid)
    mask = find_main_content(marked)
    assert mask is not None
    expected, before = find_content(plain), find_content(marked)
    found = find_content(marked.mapped(Masked(mask, 0.5, min(mask.spacing_mm))))
    assert before.radius_mm > 1.05 * expected.radius_mm
    assert found.radius_mm == pytest.approx(expected.radius_mm, rel=1e-3)
    torch.testing.assert_close(found.box_world, expected.box_world)
    torch.testing.assert_close(found.center_world, expected.center_world, atol=0.05, rtol=0)


def surroundings(*boxes: tuple[slice, slice, slice]) -> torch.Tensor:
    """What lies around an object in 64³ voxels, from boxes that show nothing."""
    empty = torch.zeros(1, 1, 64, 64, 64)
    for box in boxes:
        empty[(0, 0, *box)] = 1
    return find_surroundings(Image(empty, grid_around((64, 64, 64), AFFINES["RAS"]))).data[0, 0]


INNER = (slice(20, 30),) * 3
"""A box of 0.4 % of the voxels."""


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("place", [slice(0, 2), slice(62, 64)])
def test_what_shows_nothing_on_a_face_lies_around(axis, place):
    """With one voxel more, which is partly empty; a box inside is a defect of the object."""
    box = tuple(place if k == axis else slice(10, 20) for k in range(3))
    found = surroundings(box, INNER)
    expected = torch.zeros(64, 64, 64)
    wider = (slice(max(0, part.start - 1), part.stop + 1) for part in box)
    expected[tuple(wider)] = 1
    assert torch.equal(found, expected)


def test_where_nothing_on_a_face_is_empty_all_is_a_defect():
    assert not surroundings(INNER).any()
    assert not surroundings().any()


def test_large_pieces_lie_around():
    """Of more than 3 % of the voxels: padding in a frame of another value."""
    assert surroundings((slice(4, 60), slice(4, 60), slice(4, 8))).sum() > 56 * 56 * 4
    assert not surroundings((slice(4, 60), slice(4, 40), slice(4, 7))).any()


def test_a_defect_that_reaches_a_face_lies_around():
    assert surroundings((slice(0, 30), slice(20, 30), slice(20, 30)))[29, 25, 25] == 1
