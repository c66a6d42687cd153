"""What an interpreter and a notebook show of each object: short, and true."""

import base64
import io
import re
import subprocess
import sys

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image as Picture
from registered import registered
from synthetic import AFFINES, grid_around, rotation, smooth_image, smooth_velocity

import patchmorph
from patchmorph.images.planes import box_around, plane_grids, sampled_planes
from patchmorph.images.volume import Image
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.gaps import Gaps

GRID = grid_around((44, 50, 42), AFFINES["LIA"] * 4)


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Picture.open(io.BytesIO(data))) / 255


def test_an_image_says_name_size_spacing_orientation_type_and_range():
    values = torch.arange(2 * 3 * 4).reshape(1, 1, 2, 3, 4).short() - 5
    image = Image(values, grid_around((2, 3, 4), AFFINES["LPS"] @ np.diag([1.0, 2, 0.125])), "sub-01.nii.gz")
    assert repr(image) == "Image('sub-01.nii.gz', 2×3×4 voxels of 1×2×0.125 mm, LPS, int16, -5 to 18)"  # noqa: RUF001
    assert repr(smooth_image(GRID).normalized()).startswith("MappedImage('synthetic', 44×50×42 ")  # noqa: RUF001


def test_letters_of_an_orientation_are_those_of_nibabel(linear):
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    assert grid_around((4, 5, 6), linear).orientation == "".join(nibabel.aff2axcodes(matrix))


def test_a_grid():
    grid = grid_around((4, 5, 6), np.diag([2.0, 2, 3]), (1.5, -20, 0))
    assert repr(grid) == "Grid(4×5×6 voxels of 2×2×3 mm, RAS, centre (1.5, -20, 0) mm)"  # noqa: RUF001
    many = Grid((4, 5, 6), grid.voxel_to_world.expand(3, 4, 4))
    assert repr(many).startswith("Grid(3 of 4×5×6 voxels")  # noqa: RUF001


def test_transforms():
    turn = rotation(20)
    assert repr(turn).startswith("AffineTransform(rotation 20°, scales 1, 1, 1, translation (")
    stretch = AffineTransform(torch.diag(torch.tensor([1.0, 2, 0.5, 1], dtype=torch.float64))[None])
    assert repr(stretch) == "AffineTransform(rotation 0°, scales 2, 1, 0.5, translation (0, 0, 0) mm)"
    assert repr(AffineTransform(torch.full((1, 4, 4), torch.nan))) == "AffineTransform(not finite)"
    flow = smooth_velocity(grid_around((10, 11, 12), AFFINES["RAS"] * 8), 3.0)
    largest = float(flow.velocity.norm(dim=1).max())
    assert repr(flow) == f"VelocityField(10×11×12 voxels of 8×8×8 mm, RAS, up to {largest:.4g} mm)"  # noqa: RUF001
    assert repr(flow.inverse()) == f"InverseFlow({flow!r})"
    assert repr(turn @ flow) == f"Chain({turn!r} @ {flow!r})"
    field = DisplacementField(torch.full((1, 3, 10, 11, 12), 2.0), flow.grid)
    assert "RAS, up to 3.464 mm)" in repr(field)
    assert repr(field.inverse()) == f"InverseDisplacement({field!r})"
    missing = torch.zeros(1, 1, 10, 11, 12, dtype=torch.bool)
    missing[..., :2] = True
    assert repr(Gaps(missing, flow.grid)).startswith("Gaps(220 of 10×11×12 voxels")  # noqa: RUF001


def test_a_model_is_one_line():
    text = repr(patchmorph.load_model("t1-brain", "cpu"))
    assert re.fullmatch(r"PatchMorphModel\(.*, patches of \d+³ at 4, 2, 1 mm, .* million parameters\)", text)


@pytest.fixture(scope="module")
def registration():
    fixed, moving = smooth_image(GRID), smooth_image(grid_around((50, 44, 46), AFFINES["RAS"] * 4))
    moving.name = "<moving> & co"
    return registered(fixed, moving, rotation(5))


def test_a_registration_says_its_images_and_its_verdict(registration):
    level = registration.verdict.level
    text = f"Registration(moving '<moving> & co' to fixed 'synthetic', verdict {level}, AffineTransform("
    assert repr(registration).startswith(text)
    assert "\n" not in repr(registration)


SIDES = {"x": {1: "right", 2: "right"}, "y": {0: "right", 2: "top"}, "z": {0: "top", 1: "top"}}
"""Where the larger coordinates of each world axis are, in the sagittal, the coronal and the axial plane."""


@pytest.mark.parametrize("axis", SIDES)
def test_planes_are_anatomical_in_any_orientation(linear, axis):
    """Voxels that are bright on one side of the world are on that side of each plane."""
    grid = grid_around((30, 34, 28), linear * 2)
    world = grid.points_world()[..., "xyz".index(axis)]
    planes = sampled_planes(
        Image((world > world.mean()).float()[:, None], grid), plane_grids(box_around(grid))
    )
    for number, side in SIDES[axis].items():
        plane = planes[number] if side == "right" else planes[number].T[:, ::-1]
        middle = plane.shape[1] // 2
        assert plane[:, middle:].sum() > 5 * plane[:, :middle].sum()


def test_a_notebook_shows_three_planes_of_an_image():
    shown = picture(smooth_image(GRID)._repr_png_())
    assert shown.shape[1] > 3 * 100
    assert shown.max() > 0.9
    thirds = np.array_split(shown, 3, axis=1)
    assert all(float(third.std()) > 0.1 for third in thirds)


@pytest.mark.parametrize("values", [0.0, 7.0, torch.nan])
def test_an_image_of_one_value_is_shown_as_well(values):
    image = Image(torch.full((1, 1, 4, 5, 6), values), grid_around((4, 5, 6), AFFINES["RAS"]))
    assert picture(image._repr_png_()).ndim == 3
    assert repr(image)


def test_a_notebook_shows_fixed_warped_and_both(registration):
    html = registration._repr_html_()
    assert "&lt;moving&gt; &amp; co" in html
    assert f"verdict: <b>{registration.verdict.level}</b>" in html
    (encoded,) = re.findall(r'src="data:image/png;base64,([^"]*)"', html)
    fixed, warped, both = np.array_split(picture(base64.b64decode(encoded)), 3, axis=0)
    assert np.allclose(fixed[..., 0], fixed[..., 1])
    assert np.abs(fixed - warped).mean() > 0.005
    np.testing.assert_allclose(both[..., 0], fixed[..., 0], atol=0.01)
    np.testing.assert_allclose(both[..., 1], warped[..., 0], atol=0.01)
    assert len(html) < 300_000


def test_drawing_loads_pillow_only_when_it_is_asked():
    code = "import sys, patchmorph; patchmorph.Image; print('PIL' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
