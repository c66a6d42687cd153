"""What results say of their place: one matrix in both forms, in mm, by the code of the space."""

import nibabel
import numpy as np
import pytest
import torch
from niftis import METRE, MICRON, forms_of, write_nifti
from synthetic import grid_around

from patchmorph.images.volume import Image
from patchmorph.io.grids import matrix_of
from patchmorph.io.images import load_grid, load_image, save_image
from patchmorph.io.series import warp_files
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform

SHAPE = (5, 6, 7)


def agree(path, matrix, code):
    (sform, sform_code), (qform, qform_code) = forms_of(path)
    assert (sform_code, qform_code) == (code, code)
    np.testing.assert_allclose(sform, matrix, atol=1e-5)
    np.testing.assert_allclose(qform, matrix, atol=2e-3)  # a quaternion in float32
    header = nibabel.load(path).header
    assert header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(header.get_zooms()[:3], np.linalg.norm(matrix[:3, :3], axis=0), rtol=1e-6)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("code", [1, 2, 3, 4, 5])
def test_a_saved_image_states_its_matrix_twice(tmp_path, linear, ending, code):
    grid = grid_around(SHAPE, linear * 1.5, (10, -20, 30))
    save_image(Image(torch.rand(1, 1, *SHAPE), grid), tmp_path / f"image{ending}", code)
    agree(tmp_path / f"image{ending}", matrix_of(grid), code)
    save_image(Image(torch.rand(1, 1, *SHAPE), grid), tmp_path / f"image{ending}")
    agree(tmp_path / f"image{ending}", matrix_of(grid), 1)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("code", [1, 2, 4])
@pytest.mark.parametrize("unit", [METRE, MICRON])
def test_a_warped_image_is_in_the_space_of_its_grid_and_in_mm(tmp_path, linear, code, unit, version):
    """Its header is a copy of the source's, whose unit and forms are others."""
    source = write_nifti(
        tmp_path / "in.nii", np.ones((*SHAPE, 2), np.int16), np.diag([7.0, 7, 7, 1]), 3, 2, version=version
    )
    volume = nibabel.load(source)
    volume.header["xyzt_units"] = unit | 16
    volume.header["pixdim"][4], volume.header["toffset"] = 720, 3
    nibabel.save(volume, tmp_path / "source.nii")
    grid = grid_around(SHAPE, linear * 2, (1, 2, 3))
    warp_files([(tmp_path / "source.nii", tmp_path / "out.nii")], AffineTransform.identity(), grid, code=code)
    agree(tmp_path / "out.nii", matrix_of(grid), code)
    header = nibabel.load(tmp_path / "out.nii").header
    assert header.get_xyzt_units() == ("mm", "msec")
    assert (header["pixdim"][4], header["toffset"]) == (720, 3)


@pytest.mark.parametrize("unit", [4, 7, 16 | 5])
def test_units_that_nifti_lacks_become_mm(tmp_path, unit):
    source = write_nifti(tmp_path / "in.nii", np.ones(SHAPE, np.int16), np.eye(4), xyzt_units=unit)
    warp_files([(source, tmp_path / "out.nii")], AffineTransform.identity(), load_grid(source))
    assert int(nibabel.load(tmp_path / "out.nii").header["xyzt_units"]) == (unit & ~7) | 2


@pytest.mark.parametrize("write", ["save", "warp"])
@pytest.mark.parametrize("shear", [0.01, 0.2, -0.5])
def test_a_shear_is_in_the_sform_alone(tmp_path, write, shear):
    """A qform is a rotation with voxel sizes."""
    matrix = np.eye(4)
    matrix[0, 1], matrix[:3, 3] = shear, (3, -2, 1)
    grid = Grid(SHAPE, torch.from_numpy(matrix)[None])
    if write == "save":
        save_image(Image(torch.rand(1, 1, *SHAPE), grid), tmp_path / "out.nii", 4)
    else:
        source = write_nifti(tmp_path / "in.nii", np.ones(SHAPE, np.int16), np.eye(4), 2, 1)
        warp_files([(source, tmp_path / "out.nii")], AffineTransform.identity(), grid, code=4)
    (sform, sform_code), (_, qform_code) = forms_of(tmp_path / "out.nii")
    assert (sform_code, qform_code) == (4, 0)
    np.testing.assert_allclose(sform, matrix, atol=1e-6)
    image = load_image(tmp_path / "out.nii")
    np.testing.assert_allclose(matrix_of(image.grid), matrix, atol=1e-6)
    assert image.notes == image.doubts == ()


def test_what_holds_for_the_slices_of_the_source_is_cleared(tmp_path):
    fields = {"dim_info": 57, "slice_code": 1, "slice_end": 6, "slice_duration": 0.1, "cal_max": 9}
    source = write_nifti(tmp_path / "in.nii", np.ones(SHAPE, np.int16), np.eye(4), **fields)
    warp_files(
        [(source, tmp_path / "out.nii")], AffineTransform.identity(), grid_around((3, 3, 3), np.eye(3))
    )
    header = nibabel.load(tmp_path / "out.nii").header
    assert all(float(header[name]) == 0 for name in fields)


@pytest.mark.parametrize("intent", [0, 3, 1002, 2003])
def test_the_intent_is_kept(tmp_path, intent):
    source = write_nifti(tmp_path / "in.nii", np.ones(SHAPE, np.int16), np.eye(4), intent_code=intent)
    warp_files([(source, tmp_path / "out.nii")], AffineTransform.identity(), load_grid(source))
    assert int(nibabel.load(tmp_path / "out.nii").header["intent_code"]) == intent
