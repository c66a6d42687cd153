"""Each ending is a format of its own, which the tool that owns it reads as we meant it."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
import torch
from synthetic import AFFINES, grid_around

from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.atomic import check_outputs
from patchmorph.io.formats.registry import ENDINGS
from patchmorph.io.grids import matrix_of
from patchmorph.io.images import load_image, save_image
from patchmorph.io.series import warp_files
from patchmorph.io.stated import Stated
from patchmorph.transforms.base import AffineTransform

ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
GRID = grid_around((5, 6, 7), AFFINES["oblique"] @ np.diag([1.0, 2, 3]), (10.5, -20, 30))
RAS = Stated(directions="RAS")


def image_of(dtype: torch.dtype, grid=GRID) -> Image:
    values = torch.rand(1, 1, *grid.shape, generator=torch.Generator().manual_seed(0)) * 200
    return Image(values.to(dtype), grid)


def test_the_list_of_endings_is_complete():
    listed = {".nii", ".nii.gz", ".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd", ".tif", ".tiff"}
    assert set(ENDINGS) == listed | {".ome.zarr"}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.float32, torch.float64])
@pytest.mark.parametrize("ending", ITK)
def test_simpleitk_reads_what_we_write(tmp_path, linear, ending, dtype):
    grid = grid_around((5, 6, 7), linear @ np.diag([1.0, 2, 3]), (10.5, -20, 30))
    image = image_of(dtype, grid)
    save_image(image, tmp_path / f"image{ending}")
    theirs = sitk.ReadImage(str(tmp_path / f"image{ending}"))
    values = sitk.GetArrayFromImage(theirs).transpose(2, 1, 0)
    np.testing.assert_array_equal(values, image.data[0, 0].numpy())
    assert values.dtype == image.data.numpy().dtype
    place = np.array(theirs.TransformIndexToPhysicalPoint((4, 2, 6))) * (-1, -1, 1)
    np.testing.assert_allclose(place, (matrix_of(grid) @ (4, 2, 6, 1))[:3], atol=1e-9)


@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if not ending.startswith(".tif")])
def test_what_is_written_is_read_again(tmp_path, ending):
    image = image_of(torch.int16)
    save_image(image, tmp_path / f"image{ending}")
    loaded = load_image(tmp_path / f"image{ending}")
    assert torch.equal(loaded.data, image.data)
    np.testing.assert_allclose(matrix_of(loaded.grid), matrix_of(GRID), atol=1e-4)
    assert loaded.doubts == ()


def test_a_tiff_keeps_voxels_and_their_size_and_no_orientation(tmp_path):
    image = image_of(torch.float32)
    save_image(image, tmp_path / "image.tif")
    with tifffile.TiffFile(tmp_path / "image.tif") as file:
        assert file.is_imagej
        assert file.series[0].axes == "ZYX"
        assert file.imagej_metadata["unit"] == "mm"
    loaded = load_image(tmp_path / "image.tif", RAS)
    assert torch.equal(loaded.data, image.data)
    assert loaded.spacing_mm == pytest.approx((1, 2, 3))
    with pytest.raises(PatchMorphError, match="orientation must be stated"):
        load_image(tmp_path / "image.tif")


@pytest.mark.parametrize(
    ("dtype", "low", "high", "kept"),
    [
        (torch.uint8, 0, 255, np.uint8),
        (torch.int16, 0, 900, np.uint16),
        (torch.int16, -900, 900, np.float32),
        (torch.int32, 0, 65535, np.uint16),
        (torch.int32, 0, 65536, np.float32),
        (torch.float64, -0.5, 0.5, np.float32),
    ],
)
def test_a_tiff_holds_numbers_exactly_or_refuses_them(tmp_path, dtype, low, high, kept):
    values = torch.linspace(low, high, 210).to(dtype).reshape(1, 1, *GRID.shape)
    save_image(Image(values, GRID), tmp_path / "image.tif")
    read = tifffile.imread(tmp_path / "image.tif")
    assert read.dtype == kept
    np.testing.assert_array_equal(read.T, values[0, 0].numpy().astype(kept))
    with pytest.raises(PatchMorphError, match="TIFF must hold integers up to 16777216, got 16777217 for"):
        save_image(Image(torch.full((1, 1, *GRID.shape), 2**24 + 1), GRID), tmp_path / "large.tif")
    assert not (tmp_path / "large.tif").exists()


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
def test_a_header_and_its_voxels_are_both_written(tmp_path, ending):
    save_image(image_of(torch.int16), tmp_path / "sub" / f"image.one{ending}")
    assert sorted(item.name for item in (tmp_path / "sub").iterdir()) == [
        f"image.one{ending}",
        "image.one.raw",
    ]
    save_image(image_of(torch.float32), tmp_path / "sub" / f"image.one{ending}")  # both are replaced
    assert torch.equal(load_image(tmp_path / "sub" / f"image.one{ending}").data, image_of(torch.float32).data)


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
def test_voxels_of_another_header_are_not_replaced(tmp_path, ending):
    other = {".nhdr": ".mhd", ".mhd": ".nhdr"}[ending]
    save_image(image_of(torch.int16), tmp_path / f"image{other}")
    before = (tmp_path / "image.raw").read_bytes()
    for write in (
        lambda path: save_image(image_of(torch.uint8), path),
        lambda path: check_outputs([path], []),
    ):
        with pytest.raises(
            PatchMorphError, match=r"must be written to a new file, got another's: .*image\.raw"
        ):
            write(tmp_path / f"image{ending}")
    assert (tmp_path / "image.raw").read_bytes() == before


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd", ".tif"])
def test_series_are_written_in_every_format(tmp_path, ending):
    array = np.random.default_rng(0).integers(0, 900, (5, 6, 7, 3)).astype(np.uint16)
    nibabel.save(nibabel.Nifti1Image(array, matrix_of(GRID)), tmp_path / "series.nii")
    target = tmp_path / f"warped{ending}"
    warp_files([(tmp_path / "series.nii", target)], AffineTransform.identity(), GRID, "nearest")
    if ending == ".tif":
        np.testing.assert_array_equal(tifffile.imread(target).T, np.moveaxis(array, 3, 3))
    else:
        theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(target)))
        np.testing.assert_array_equal(theirs.transpose(2, 1, 0, 3), array)


@pytest.mark.parametrize("name", ["image", "image.png", "image.img", "nii.gz.txt"])
def test_another_ending_is_refused_with_the_list(tmp_path, name):
    with pytest.raises(PatchMorphError, match=r"must end in .*\.nii\.gz, .*\.nrrd, .*\.tif.*, got .*" + name):
        save_image(image_of(torch.uint8), tmp_path / name)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_failure_leaves_nothing(tmp_path, ending):
    (tmp_path / f"image{ending}").mkdir()
    with pytest.raises(PatchMorphError, match=r"output must be (a file or new, got a folder|new or a Zarr)"):
        save_image(image_of(torch.uint8), tmp_path / f"image{ending}")
    assert [item.name for item in tmp_path.iterdir()] == [f"image{ending}"]
