import gzip

import nibabel
import numpy as np
import pytest
import torch
from synthetic import grid_around

from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.images import load_grid, load_image, save_image


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mgz"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.float32])
def test_images_survive_a_round_trip(tmp_path, linear, ending, dtype):
    grid = grid_around((5, 6, 7), linear, (10, -20, 30))
    image = Image((torch.rand(1, 1, 5, 6, 7) * 200).to(dtype), grid)
    path = tmp_path / f"image{ending}"
    save_image(image, path)
    loaded = load_image(path)
    assert loaded.data.dtype == dtype
    torch.testing.assert_close(loaded.data, image.data)
    # NIfTI and MGZ store the affine in float32.
    torch.testing.assert_close(loaded.grid.voxel_to_world, grid.voxel_to_world, atol=1e-4, rtol=0)


def test_nibabel_reads_what_we_write(tmp_path, linear):
    image = Image(torch.rand(1, 1, 5, 6, 7), grid_around((5, 6, 7), linear))
    save_image(image, tmp_path / "image.nii.gz")
    volume = nibabel.load(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(volume.get_fdata(dtype=np.float32), image.data[0, 0].numpy())
    np.testing.assert_allclose(volume.affine[:3, :3], linear, atol=1e-6)


def test_one_frame_of_four_dimensions_is_squeezed(tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 6, 1), np.uint8), np.eye(4)), tmp_path / "frame.nii")
    assert load_image(tmp_path / "frame.nii").grid.shape == (4, 5, 6)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, ">i2", np.float64])
def test_types_that_torch_lacks_are_widened(tmp_path, dtype):
    values = np.arange(60).reshape(3, 4, 5).astype(dtype)
    volume = nibabel.Nifti1Image(values, np.eye(4), dtype=np.dtype(dtype).newbyteorder("="))
    nibabel.save(volume, tmp_path / "image.nii")
    assert load_image(tmp_path / "image.nii").data[0, 0].double().numpy() == pytest.approx(
        values.astype(float)
    )


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 6, 3), (4, 5, 1)])
def test_other_dimensions_are_refused(tmp_path, shape):
    nibabel.save(nibabel.Nifti1Image(np.ones(shape, np.uint8), np.eye(4)), tmp_path / "other.nii")
    with pytest.raises(PatchMorphError, match=r"must be one 3D volume, got shape .*other\.nii"):
        load_image(tmp_path / "other.nii")


def test_a_singular_affine_is_refused(tmp_path):
    volume = nibabel.Nifti1Image(np.ones((4, 5, 6), np.uint8), None)
    volume.header.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), code=1)
    nibabel.save(volume, tmp_path / "flat.nii")
    with pytest.raises(PatchMorphError, match=r"affine must be invertible, got determinant 0 in .*flat\.nii"):
        load_image(tmp_path / "flat.nii")


def test_what_is_no_image_is_refused(tmp_path):
    with pytest.raises(PatchMorphError, match="must be an existing file"):
        load_image(tmp_path / "missing.nii.gz")
    (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"no image"))
    (tmp_path / "text.nii").write_text("no image")
    (tmp_path / "notes.txt").write_text("no image")
    for name in ("text.nii.gz", "text.nii", "notes.txt"):
        with pytest.raises(PatchMorphError, match=f"must be a readable NIfTI or MGZ volume, got .*{name}"):
            load_image(tmp_path / name)


def test_a_truncated_file_is_refused(tmp_path):
    nibabel.save(
        nibabel.Nifti1Image(np.random.default_rng(0).random((20, 20, 20)), np.eye(4)), tmp_path / "a.nii.gz"
    )
    whole = (tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PatchMorphError, match="must be a readable"):
        load_image(tmp_path / "cut.nii.gz")


def test_a_corrupt_file_is_refused(tmp_path):
    volume = nibabel.Nifti1Image(np.random.default_rng(0).random((20, 20, 20)), np.eye(4))
    nibabel.save(volume, tmp_path / "a.nii.gz")
    content = bytearray((tmp_path / "a.nii.gz").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = bytes(255 - byte for byte in content[middle : middle + 300])
    (tmp_path / "corrupt.nii.gz").write_bytes(content)
    with pytest.raises(PatchMorphError, match="must be a readable"):
        load_image(tmp_path / "corrupt.nii.gz")


def test_fine_voxels_are_no_singular_affine(tmp_path):
    nibabel.save(
        nibabel.Nifti1Image(np.ones((4, 5, 6), np.uint8), np.diag([1e-5, 1e-5, 1e-5, 1])),
        tmp_path / "fine.nii",
    )
    assert load_image(tmp_path / "fine.nii").grid.shape == (4, 5, 6)


def test_other_endings_are_refused_before_anything_is_written(tmp_path):
    image = Image(torch.rand(1, 1, 4, 4, 4), grid_around((4, 4, 4), np.eye(3)))
    with pytest.raises(PatchMorphError, match=r"must end in .*, got .*image\.png"):
        save_image(image, tmp_path / "image.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_headers_have_the_unit_millimetre(tmp_path, ending):
    """Other tools warn of a header without a unit."""
    grid = grid_around((4, 5, 6), np.diag([0.8, 1.2, 2.5]))
    save_image(Image(torch.rand(1, 1, 4, 5, 6), grid), tmp_path / f"image{ending}")
    header = nibabel.load(tmp_path / f"image{ending}").header
    assert header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(header.get_zooms(), (0.8, 1.2, 2.5), rtol=1e-6)
    assert int(header["sform_code"]) > 0


@pytest.mark.parametrize(("dtype", "written"), [(torch.float64, np.float32), (torch.int64, np.int32)])
def test_types_that_mgh_lacks_become_their_nearest(tmp_path, dtype, written):
    values = torch.arange(-60, 60).reshape(1, 1, 4, 5, 6).to(dtype)
    save_image(Image(values, grid_around((4, 5, 6), np.eye(3))), tmp_path / "image.mgz")
    volume = nibabel.load(tmp_path / "image.mgz")
    assert volume.get_data_dtype().newbyteorder("=") == written
    np.testing.assert_array_equal(volume.get_fdata(), values[0, 0].numpy())


def test_the_headers_own_scale_is_applied(tmp_path):
    volume = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    volume.header.set_slope_inter(0.5, -3.0)
    nibabel.save(volume, tmp_path / "image.nii")
    expected = nibabel.load(tmp_path / "image.nii").get_fdata()
    loaded = load_image(tmp_path / "image.nii").data
    assert loaded.dtype == torch.float32
    np.testing.assert_allclose(loaded[0, 0].numpy(), expected)


def test_a_grid_is_that_of_the_image_whatever_frames_follow(tmp_path, linear):
    grid = grid_around((4, 5, 6), linear, (10, -20, 30))
    volume = nibabel.Nifti1Image(np.zeros((4, 5, 6, 7), np.uint8), grid.voxel_to_world[0].numpy())
    nibabel.save(volume, tmp_path / "series.nii")
    found = load_grid(tmp_path / "series.nii")
    assert found.shape == (4, 5, 6)
    torch.testing.assert_close(found.voxel_to_world, grid.voxel_to_world, atol=1e-5, rtol=0)
