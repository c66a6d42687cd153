"""Headers that contradict themselves or the file are one line, before anything is allocated or warned of."""

import gzip
import os

import nibabel
import numpy as np
import pytest
from niftis import edit_header, write_nifti
from synthetic import grid_around

from patchmorph.errors import PatchMorphError
from patchmorph.io.frames import Frames
from patchmorph.io.images import load_grid, load_image
from patchmorph.io.series import warp_files
from patchmorph.transforms.base import AffineTransform

MATRIX = np.diag([2.0, 2, 2, 1])
VALUES = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)


@pytest.fixture
def path(tmp_path):
    return write_nifti(tmp_path / "image.nii", VALUES, MATRIX)


def refused(path, message):
    for read in (load_image, Frames, load_grid):
        with pytest.raises(PatchMorphError, match=message) as error:
            read(path)
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "must be whole, got a file that is too short"),
        ({"dim": [3, 5, 6, 8, 1, 1, 1, 1]}, "must be whole, got a file that is too short"),
        ({"dim": [3, 5, -6, 7, 1, 1, 1, 1]}, "must have sizes above 0, got shape"),
        ({"dim": [3, 5, 0, 7, 1, 1, 1, 1]}, "must have sizes above 0, got shape"),
        ({"dim": [0, 5, 6, 7, 1, 1, 1, 1]}, "must have sizes above 0, got shape"),
        ({"vox_offset": 0}, "must start at byte 348 or later, got 0"),
        ({"vox_offset": np.nan}, "must be a readable NIfTI"),
        ({"vox_offset": 1e8}, "must be whole, got a file that is too short"),
        ({"datatype": 1}, "must be a readable NIfTI"),
        ({"datatype": 9999}, "must be a readable NIfTI"),
        ({"scl_slope": 1, "scl_inter": np.nan}, "must be a readable NIfTI"),
        ({"srow_x": 0}, "affine must be invertible, got determinant 0"),
        ({"srow_y": np.nan}, "affine must be finite"),
        ({"srow_z": 1e20}, "affine must hold lengths below 1e\\+07 mm"),
        (
            {"sform_code": 0, "pixdim": [1, 0, 2, 2, 1, 1, 1, 1]},
            "sizes must be above 0 and finite, got 0, 2, 2",
        ),
        (
            {"sform_code": 0, "pixdim": [1, np.nan, 2, 2, 1, 1, 1, 1]},
            "sizes must be above 0 and finite, got nan",
        ),
        ({"sform_code": 0, "pixdim": [1, 2, 2, np.inf, 1, 1, 1, 1]}, "above 0 and finite, got 2, 2, inf"),
        ({"sform_code": 0, "quatern_b": 2}, "must be a readable NIfTI"),
        ({"sform_code": 0, "quatern_b": np.nan}, "affine must be finite"),
        (
            {"sform_code": 0, "qform_code": 0, "pixdim": [1, 2, 2, 0, 1, 1, 1, 1]},
            "above 0 and finite, got 2, 2, 0",
        ),
        ({"magic": b"n+5"}, "must be a readable NIfTI"),
    ],
)
def test_a_header_that_cannot_be_true_is_one_line(path, caplog, fields, message):
    refused(edit_header(path, **fields), message)
    assert caplog.records == []


@pytest.mark.parametrize("shape", [(32767, 32767, 32767), (32767, 32767, 1), (2000, 2000, 2)])
def test_a_packed_file_cannot_hold_more_than_a_stream_of_its_size(path, shape):
    edit_header(path, dim=[3, *shape, 1, 1, 1, 1])
    (path.parent / "packed.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    refused(path.parent / "packed.nii.gz", "must be whole, got a file that is too short")


@pytest.mark.parametrize("shape", [(5, 6, 8), (5, 7, 7), (9, 6, 7)])
def test_a_packed_file_that_ends_before_its_last_voxel_is_one_line(path, shape):
    """nibabel's own message has two."""
    edit_header(path, dim=[3, *shape, 1, 1, 1, 1])
    packed = path.parent / "packed.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(
        PatchMorphError, match=r"must be a readable NIfTI or MGZ volume, got .*Expected"
    ) as error:
        load_image(packed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"scl_slope": 0},
        {"scl_slope": 0, "scl_inter": 7},
        {"scl_slope": np.nan},
        {"scl_slope": np.inf},
        {"scl_slope": np.nan, "scl_inter": np.nan},
        {"scl_slope": 1},
    ],
)
def test_a_slope_that_is_none_changes_no_value(path, caplog, fields):
    """NIfTI: a slope of 0 is none; so is one that is not finite, as in nibabel."""
    edit_header(path, **fields)
    np.testing.assert_array_equal(load_image(path).data[0, 0], VALUES)
    warp_files([(path, path.parent / "out.nii")], AffineTransform.identity(), load_grid(path), "nearest")
    out = nibabel.load(path.parent / "out.nii")
    assert out.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(out.dataobj), VALUES)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("field", "doubt"),
    [
        ({"pixdim": [0, 2, 2, 2, 1, 1, 1, 1]}, None),
        ({"bitpix": 7}, None),
        ({"sizeof_hdr": 347}, None),
        ({"pixdim": [1, -2, 2, 2, 1, 1, 1, 1]}, None),
        ({"sform_code": 9}, "its sform was ignored, since NIfTI has no code 9"),
        ({"qform_code": -1}, "its qform was ignored, since NIfTI has no code -1"),
        ({"sform_code": 0, "pixdim": [1, -2, 2, 2, 1, 1, 1, 1]}, "its voxel sizes are negative"),
    ],
)
def test_what_is_mended_is_mended_silently_or_doubted(path, caplog, field, doubt):
    image = load_image(edit_header(path, **field))
    np.testing.assert_array_equal(image.data[0, 0], VALUES)
    np.testing.assert_allclose(image.grid.voxel_to_world[0], MATRIX)
    assert [text.partition("; ")[0] for text in image.doubts] == (
        [] if doubt is None else [f"{path}: {doubt}"]
    )
    assert caplog.records == []


@pytest.mark.parametrize("kept", [0, 1, 100, 347, 348, 360, 352 + VALUES.nbytes - 1])
def test_a_cut_file_is_one_line(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    refused(path, "got an empty file" if kept == 0 else "must be a readable|must be whole")


@pytest.mark.parametrize("name", ["folder.nii", "folder.nii.gz", "folder.mgz"])
def test_a_folder_is_no_image(tmp_path, name):
    (tmp_path / name).mkdir()
    refused(tmp_path / name, "must be an existing file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
def test_a_pipe_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii")
    refused(tmp_path / "pipe.nii", "must be an existing file")


@pytest.mark.parametrize("further", [(), (1,), (1, 1), (1, 1, 1, 1)])
def test_dimensions_of_one_are_dropped(tmp_path, further):
    path = write_nifti(tmp_path / "image.nii.gz", VALUES.reshape(*VALUES.shape, *further), MATRIX)
    image = load_image(path)
    assert image.grid.shape == VALUES.shape
    np.testing.assert_array_equal(image.data[0, 0], VALUES)
    warp_files([(path, tmp_path / "out.nii")], AffineTransform.identity(), image.grid, "nearest")
    assert nibabel.load(tmp_path / "out.nii").shape == nibabel.load(path).shape


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 7, 2), (5, 6, 7, 1, 2)])
def test_other_dimensions_are_no_volume(tmp_path, shape):
    path = write_nifti(tmp_path / "image.nii", np.ones(shape, np.uint8), MATRIX)
    with pytest.raises(PatchMorphError, match=r"must be one 3D volume, got shape \(5, 6"):
        load_image(path)


@pytest.mark.parametrize("dtype", ["c8", "c16", [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_values_that_are_no_plain_numbers_are_refused(tmp_path, dtype):
    path = write_nifti(tmp_path / "image.nii.gz", np.zeros((5, 6, 7), dtype), MATRIX)
    for read in (load_image, Frames):
        with pytest.raises(PatchMorphError, match=r"must hold plain numbers, got .*image\.nii\.gz"):
            read(path)


def test_integers_that_torch_lacks_are_refused_where_they_would_wrap(tmp_path):
    values = np.zeros((5, 6, 7), np.uint64)
    values[2, 3, 4] = 2**63 - 1
    assert int(load_image(write_nifti(tmp_path / "below.nii", values, MATRIX)).data.max()) == 2**63 - 1
    values[2, 3, 4] = 2**63
    path = write_nifti(tmp_path / "above.nii", values, MATRIX)
    with pytest.raises(PatchMorphError, match=r"integers below 2\*\*63, got 9223372036854775808 in"):
        load_image(path)
    with pytest.raises(PatchMorphError, match=r"integers below 2\*\*63"):
        warp_files(
            [(path, tmp_path / "out.nii")], AffineTransform.identity(), grid_around((5, 6, 7), np.eye(3))
        )
    assert not (tmp_path / "out.nii").exists()


@pytest.mark.parametrize("largest", [1e39, 1e300, np.finfo(np.float64).max])
def test_numbers_beyond_float32_are_refused(tmp_path, largest):
    values = np.zeros((5, 6, 7))
    values[2, 3, 4] = largest
    path = write_nifti(tmp_path / "image.nii", values, MATRIX)
    with pytest.raises(PatchMorphError, match="must hold numbers that fit float32"):
        load_image(path)


@pytest.mark.parametrize("opened", ["image.hdr", "image.img"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Pair, nibabel.Spm99AnalyzeImage, nibabel.AnalyzeImage])
def test_pairs_of_files_are_read_by_either_name(tmp_path, opened, kind):
    image = kind(VALUES, np.diag([-2.0, 2, 2, 1]))
    nibabel.save(image, tmp_path / "image.img")
    np.testing.assert_array_equal(load_image(tmp_path / opened).data[0, 0], VALUES)
    content = (tmp_path / "image.img").read_bytes()
    (tmp_path / "image.img").write_bytes(content[:-1])
    with pytest.raises(PatchMorphError, match="must be whole"):
        load_image(tmp_path / opened)
    (tmp_path / "image.img").unlink()
    with pytest.raises(PatchMorphError, match="must be"):
        load_image(tmp_path / opened)
