"""Whatever holds an image, it is the same image; anything else is one error."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from niftis import MICRON
from synthetic import AFFINES, grid_around

from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.conversion import as_image
from patchmorph.io.grids import matrix_of
from patchmorph.io.images import save_image

GRID = grid_around((5, 6, 7), AFFINES["oblique"] @ np.diag([1.0, 2, 3]), (10.5, -20, 30))
MATRIX = matrix_of(GRID)
VALUES = (np.random.default_rng(0).random((5, 6, 7)) * 200).astype(np.float32)
IMAGE = Image(torch.from_numpy(VALUES)[None, None], GRID, "given")


def same(image: Image, values=VALUES, matrix=MATRIX, atol=1e-9):
    np.testing.assert_array_equal(image.data[0, 0].numpy(), values)
    np.testing.assert_allclose(matrix_of(image.grid), matrix, atol=atol)


def test_our_own_image_is_itself():
    assert as_image(IMAGE) is IMAGE


@pytest.mark.parametrize("path", [str, lambda path: path], ids=["str", "Path"])
def test_a_path_is_read(tmp_path, path):
    save_image(IMAGE, tmp_path / "image.nii.gz")
    same(as_image(path(tmp_path / "image.nii.gz")), atol=1e-5)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image, nibabel.MGHImage])
def test_a_nibabel_image_in_memory_and_from_a_file(tmp_path, kind):
    volume = kind(VALUES, MATRIX)
    for given in (volume, volume.slicer[:, :, :]):
        image = as_image(given, "fixed")
        same(image, atol=1e-5)
        assert image.doubts == ()
    path = tmp_path / ("image.mgz" if kind is nibabel.MGHImage else "image.nii")
    nibabel.save(volume, path)
    from_file = as_image(nibabel.load(path))
    same(from_file, atol=1e-5)
    assert from_file.name == str(path)


def test_headers_of_nibabel_images_are_honoured_as_those_of_files():
    volume = nibabel.Nifti1Image(VALUES, MATRIX)
    volume.header["xyzt_units"] = MICRON
    image = as_image(volume)
    np.testing.assert_allclose(matrix_of(image.grid)[:3], MATRIX[:3] / 1000, atol=1e-9)
    assert "micron were converted to mm" in image.notes[0]
    (doubt,) = as_image(nibabel.Nifti1Image(VALUES, None)).doubts
    assert "the orientation is unknown" in doubt
    scaled = nibabel.Nifti1Image(VALUES.astype(np.int16), MATRIX)
    assert as_image(scaled).data.dtype == torch.int16


def test_a_simpleitk_image_is_in_ras(linear):
    grid = grid_around((5, 6, 7), linear @ np.diag([1.0, 2, 3]), (10.5, -20, 30))
    theirs = Image(torch.from_numpy(VALUES)[None, None], grid).to_simpleitk()
    same(as_image(theirs), matrix=matrix_of(grid))
    place = np.array(theirs.TransformIndexToPhysicalPoint((4, 2, 6)))
    np.testing.assert_allclose(place * (-1, -1, 1), (matrix_of(grid) @ (4, 2, 6, 1))[:3], atol=1e-9)


@pytest.mark.parametrize("as_affine", [np.asarray, torch.from_numpy, np.ndarray.tolist, np.float32])
@pytest.mark.parametrize("as_array", [np.asarray, torch.from_numpy, np.asfortranarray])
def test_an_array_with_its_affine(as_array, as_affine):
    for pair in (tuple, list):
        same(as_image(pair((as_array(VALUES), as_affine(MATRIX)))), atol=1e-5)


@pytest.mark.parametrize(
    "dtype", [np.uint8, np.int16, np.uint16, ">i2", np.int64, np.float16, np.float64, np.bool_]
)
def test_number_types_of_arrays(dtype):
    values = (VALUES > 100).astype(dtype)
    np.testing.assert_array_equal(as_image((values, MATRIX)).data[0, 0], values.astype(np.float64))
    for half in (torch.float16, torch.bfloat16, torch.bool):
        image = as_image((torch.from_numpy(VALUES > 100).to(half), MATRIX))
        np.testing.assert_array_equal(image.data[0, 0], VALUES > 100)


def test_a_tensor_that_needs_gradients_is_read_and_not_shared():
    tensor = torch.from_numpy(VALUES).clone().requires_grad_()
    image = as_image((tensor, MATRIX))
    image.data.zero_()
    assert float(tensor.detach().abs().max()) > 0
    assert not image.data.requires_grad


def test_one_frame_of_four_dimensions_is_a_volume():
    same(as_image((VALUES[..., None], MATRIX)))
    same(as_image(nibabel.Nifti1Image(VALUES[..., None], MATRIX)), atol=1e-5)
    same(as_image(sitk.JoinSeries([IMAGE.to_simpleitk()])))


class Unreadable:
    """Not an image."""


def with_row(*row):
    matrix = MATRIX.copy()
    matrix[3] = row
    return matrix


BAD = {
    "None": (None, "fixed must be a path, .* got NoneType"),
    "number": (7, "fixed must be a path, .* got int"),
    "object": (Unreadable(), "fixed must be a path, .* got Unreadable"),
    "array alone": (VALUES, r"fixed must be a path, .*\(array, affine\), got ndarray"),
    "tensor alone": (torch.zeros(3, 3, 3), "fixed must be a path, .* got Tensor"),
    "empty tuple": ((), "got tuple of 0"),
    "one of two": ((VALUES,), "got tuple of 1"),
    "three": ((VALUES, MATRIX, 1), "got tuple of 3"),
    "bytes": (b"image", "got bytes"),
    "no file": ("absent.nii.gz", r"must be an existing file, got absent\.nii\.gz"),
    "empty string": ("", "must be an existing file"),
    "null": ("\0", "must be an existing file"),
    "a folder": (".", "must be an existing file, or a folder of"),
    "list of lists": (([[1]], MATRIX), "array of fixed must be of numpy or torch, got list"),
    "swapped": ((MATRIX, VALUES), r"must be one 3D volume, got shape \(4, 4\) in fixed"),
    "no affine": ((VALUES, None), r"affine of fixed must be numbers of shape \(4, 4\), got NoneType"),
    "letters": ((VALUES, "affine"), r"affine of fixed must be numbers of shape \(4, 4\), got str"),
    "ragged affine": ((VALUES, [[1, 2], [3]]), r"affine of fixed must be numbers of shape \(4, 4\), got"),
    "3×3": ((VALUES, np.eye(3)), r"affine of fixed must be numbers .* got shape \(3, 3\)"),  # noqa: RUF001
    "batch": ((VALUES, np.eye(4)[None]), r"got shape \(1, 4, 4\)"),
    "complex affine": ((VALUES, np.eye(4) * 1j), "affine of fixed must be numbers"),
    "singular": ((VALUES, np.diag([1.0, 0, 1, 1])), "affine must be invertible, got determinant 0 in fixed"),
    "NaN": ((VALUES, np.diag([1.0, np.nan, 1, 1])), "affine must be finite"),
    "last row": ((VALUES, with_row(0, 0, 1, 1)), "last row of the affine must be 0 0 0 1, got"),
    "two dimensions": ((VALUES[0], MATRIX), r"must be one 3D volume, got shape \(6, 7\)"),
    "two frames": ((np.stack([VALUES] * 2, -1), MATRIX), r"must be one 3D volume, got shape \(5, 6, 7, 2\)"),
    "channels first": ((VALUES[None, None], MATRIX), r"must be one 3D volume, got shape \(1, 1, 5, 6, 7\)"),
    "no voxels": ((np.zeros((0, 4, 4)), MATRIX), r"must be one 3D volume, got shape \(0, 4, 4\)"),
    "complex": ((VALUES * 1j, MATRIX), "array of fixed must hold plain numbers, got complex64"),
    "complex tensor": ((torch.zeros(3, 3, 3, dtype=torch.complex64), MATRIX), "plain numbers, got complex64"),
    "objects": ((VALUES.astype(object), MATRIX), "array of fixed must hold plain numbers, got object"),
    "text": ((VALUES.astype(str), MATRIX), "array of fixed must hold plain numbers, got"),
    "dates": ((VALUES.astype("M8[s]"), MATRIX), "array of fixed must hold plain numbers, got datetime"),
    "records": ((np.zeros((3, 3, 3), [("r", "u1")]), MATRIX), "array of fixed must hold plain numbers"),
    "huge numbers": ((np.full((3, 3, 3), 1e300), MATRIX), "must hold numbers that fit float32"),
    "nibabel series": (
        nibabel.Nifti1Image(np.zeros((3, 3, 3, 2)), MATRIX),
        r"must be one 3D volume, got shape \(3, 3, 3, 2\)",
    ),
    "nibabel surface": (nibabel.GiftiImage(), "fixed must be a path, .* got GiftiImage"),
    "flat ITK": (IMAGE.to_simpleitk()[:, :, 0], r"must be one 3D volume, got shape \(5, 6\) in fixed"),
    "vector ITK": (
        sitk.Compose([IMAGE.to_simpleitk()] * 3),
        r"must be one 3D volume, got shape \(5, 6, 7, 3\) in fixed",
    ),
    "complex ITK": (
        sitk.RealAndImaginaryToComplex(*[IMAGE.to_simpleitk()] * 2),
        "must hold plain numbers, got complex of 32-bit float in fixed",
    ),
    "ITK transform": (sitk.Transform(), "fixed must be a path, .* got Transform"),
}


@pytest.mark.parametrize("case", BAD)
def test_anything_else_is_one_error_that_names_the_argument(case):
    given, message = BAD[case]
    with pytest.raises(PatchMorphError, match=message) as error:
        as_image(given, "fixed")
    assert "\n" not in str(error.value)


def test_register_names_the_argument():
    from patchmorph.api import register

    with pytest.raises(PatchMorphError, match=r"^moving must be a path, .* got NoneType$"):
        register(IMAGE, None, model="none")
    with pytest.raises(PatchMorphError, match=r"^fixed_mask must be a path, .* got int$"):
        register(IMAGE, IMAGE, model="none", fixed_mask=3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.float32, torch.float64])
def test_images_become_those_of_other_libraries(linear, dtype):
    grid = grid_around((5, 6, 7), linear * 2, (10.5, -20, 30))
    image = Image(torch.from_numpy(VALUES).to(dtype)[None, None], grid)
    volume = image.to_nibabel()
    np.testing.assert_array_equal(np.asarray(volume.dataobj), image.numpy())
    np.testing.assert_allclose(volume.affine, matrix_of(grid), atol=1e-5)
    assert volume.get_data_dtype() == image.numpy().dtype
    assert int(volume.header["sform_code"]) == int(volume.header["qform_code"]) == 1
    theirs = image.to_simpleitk()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(theirs).T, image.numpy())
    assert image.numpy().shape == (5, 6, 7)


def test_half_precision_becomes_float32():
    for dtype in (torch.float16, torch.bfloat16):
        image = Image(torch.from_numpy(VALUES).to(dtype)[None, None], GRID)
        assert image.numpy().dtype == np.float32
        assert image.to_nibabel().get_data_dtype() == np.float32


def test_several_channels_come_last():
    image = Image(torch.from_numpy(np.stack([VALUES, 2 * VALUES]))[None], GRID)
    assert image.numpy().shape == (5, 6, 7, 2)
    np.testing.assert_array_equal(image.numpy()[..., 1], 2 * VALUES)
    assert image.to_nibabel().shape == (5, 6, 7, 2)
    assert image.to_simpleitk().GetNumberOfComponentsPerPixel() == 2
