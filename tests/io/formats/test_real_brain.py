"""A real brain is the same image in every format: voxels and affine, bit for bit where the format allows."""

import numpy as np
import pytest
from foreign_images import write_dicom

from patchmorph.images.volume import Image
from patchmorph.io.conversion import as_image
from patchmorph.io.formats.registry import ENDINGS
from patchmorph.io.grids import matrix_of
from patchmorph.io.images import image_from, load_image, save_image
from patchmorph.io.placement import Placement
from patchmorph.io.stated import Stated


@pytest.fixture(scope="module")
def brain(data) -> Image:
    return load_image(data / "t1-labelled" / "sub-01_T1w.nii.gz")


def same(image: Image, brain: Image, atol=1e-9):
    np.testing.assert_array_equal(image.numpy(), brain.numpy())
    np.testing.assert_allclose(matrix_of(image.grid), matrix_of(brain.grid), atol=atol)


@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if not ending.startswith(".tif")])
def test_files(brain, tmp_path, ending):
    save_image(brain, tmp_path / f"brain{ending}")
    same(load_image(tmp_path / f"brain{ending}"), brain, atol=1e-5)  # NIfTI and MGH hold float32


def test_a_tiff_lies_where_its_orientation_says(brain, tmp_path):
    save_image(brain, tmp_path / "brain.tif")
    matrix = matrix_of(brain.grid).copy()
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(brain.grid.shape) - 1) / 2)
    expected = image_from(brain.numpy(), Placement(matrix), tmp_path)
    assert brain.grid.orientation == "LIA"
    same(load_image(tmp_path / "brain.tif", Stated(origin="psr")), expected)


def test_a_dicom_series_begins_at_its_other_end(brain, tmp_path):
    """Slices are sorted along their normal: a left-handed array comes back reversed, in the same place."""
    values = brain.numpy().astype(np.int16)
    image = load_image(write_dicom(tmp_path / "series", values, matrix_of(brain.grid)))
    np.testing.assert_array_equal(image.numpy()[:, :, ::-1], values)
    corner = np.array([0, 0, values.shape[2] - 1, 1])
    ours, theirs = matrix_of(image.grid) @ (0, 0, 0, 1), matrix_of(brain.grid) @ corner
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert image.grid.orientation == "LIP"


def test_objects(brain):
    for given in (brain.to_nibabel(), brain.to_simpleitk(), (brain.numpy(), matrix_of(brain.grid))):
        same(as_image(given), brain, atol=1e-5)
