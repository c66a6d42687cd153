"""FSL's own Python library (fslpy) reads our files and agrees, and we read its."""

import nibabel
import numpy as np
import pytest
import torch
from foreign.conftest import apply, nibabel_image, world_points
from fsl.data.image import Image as FslImage
from fsl.transform import flirt, fnirt, nonlinear
from synthetic import AFFINES, grid_around

from patchmorph.errors import PatchMorphError
from patchmorph.io.grids import GridPair, matrix_of
from patchmorph.io.transforms.formats import load_transform, save_transform


@pytest.fixture
def images(pair):
    """Moving and fixed image, in fslpy's order."""
    return FslImage(nibabel_image(pair.moving)), FslImage(nibabel_image(pair.fixed))


def test_a_flirt_matrix_is_the_same_map(tmp_path, affine, pair, images):
    save_transform(affine, tmp_path / "affine.mat", "fsl", pair)
    backwards = flirt.fromFlirt(flirt.readFlirt(str(tmp_path / "affine.mat")), *images, "world", "world")
    points = world_points()
    expected = affine(points.double())[0].numpy()
    np.testing.assert_allclose(
        apply(np.linalg.inv(backwards), points[0].double().numpy()), expected, atol=1e-4
    )
    flirt.writeFlirt(flirt.toFlirt(backwards, *images, "world", "world"), str(tmp_path / "theirs.mat"))
    for name in ("affine", "theirs"):  # with fewer digits
        loaded = load_transform(tmp_path / f"{name}.mat", "fsl", pair)
        np.testing.assert_allclose(loaded(points.double())[0].numpy(), expected, atol=1e-4)


def test_a_warp_is_the_same_map(tmp_path, chain, pair, images):
    save_transform(chain, tmp_path / "warp.nii.gz", "fsl", pair)
    points = pair.fixed.points_world().reshape(1, -1, 3)[:, ::97]
    read = fnirt.readFnirt(str(tmp_path / "warp.nii.gz"), *images, defType="relative")
    found = read.transform(points[0].double().numpy(), "world", "world")
    expected = chain(points)[0].numpy()
    known = np.isfinite(found).all(-1)  # fslpy leaves out what rounds to a voxel outside
    assert known.mean() > 0.9
    np.testing.assert_allclose(found[known], expected[known], atol=1e-3)  # float32, coordinates up to 150 mm
    loaded = load_transform(tmp_path / "warp.nii.gz", pair=pair)
    np.testing.assert_allclose(loaded(points)[0].numpy(), expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["absolute", "relative"])
def test_both_kinds_of_fields_that_fslpy_writes_are_told_apart(tmp_path, chain, pair, images, kind):
    points = pair.fixed.points_world()
    ends = chain(points)[0].double().numpy()
    moving, fixed = images
    there = apply(moving.getAffine("world", "fsl"), ends).astype(np.float32)
    places = {"src": moving, "ref": fixed, "srcSpace": "fsl", "refSpace": "fsl", "header": fixed.header}
    field = nonlinear.DeformationField(there, defType="absolute", **places)
    if kind == "relative":
        relative = nonlinear.convertDeformationType(field, "relative").astype(np.float32)
        field = nonlinear.DeformationField(relative, defType="relative", **places)
    fnirt.toFnirt(field).save(str(tmp_path / "field.nii.gz"))
    found = load_transform(tmp_path / "field.nii.gz", pair=pair)(points)[0].numpy()
    np.testing.assert_allclose(found, ends, atol=2e-3)  # float32, coordinates up to 150 mm


def test_files_that_lack_something_say_so(tmp_path, affine, chain, pair):
    with pytest.raises(PatchMorphError, match="must be given the fixed image"):
        save_transform(affine, tmp_path / "affine.mat", "fsl")
    with pytest.raises(PatchMorphError, match="must be given the moving image"):
        save_transform(affine, tmp_path / "affine.mat", "fsl", GridPair(pair.fixed))
    with pytest.raises(PatchMorphError, match="must get an affine transform, got one with 2 fields"):
        save_transform(chain, tmp_path / "affine.mat", "fsl", pair)
    (tmp_path / "short.mat").write_text("1 0 0 0\n0 1 0 0\n")
    with pytest.raises(PatchMorphError, match="must be 4 by 4 numbers"):
        load_transform(tmp_path / "short.mat", "fsl", pair)
    assert {item.name for item in tmp_path.iterdir()} == {"short.mat"}


def test_what_moves_with_a_shift_of_the_moving_image_is_in_the_file(tmp_path, chain, pair):
    """FSL's numbers depend on both headers; the map does not."""
    shifted = GridPair(pair.fixed, pair.moving.crop((2, 0, 0), pair.moving.shape))
    save_transform(chain, tmp_path / "warp.nii.gz", "fsl", pair)
    points = pair.fixed.points_world().reshape(1, -1, 3)[:, ::97]
    wrong = load_transform(tmp_path / "warp.nii.gz", pair=shifted)(points)
    right = load_transform(tmp_path / "warp.nii.gz", pair=pair)(points)
    assert (wrong - right).norm(dim=-1).min() > 1
    torch.testing.assert_close(right, chain(points), atol=1e-3, rtol=0)


def test_the_header_of_a_warp_has_its_intent_form_and_unit(tmp_path, chain, pair):
    """FSL reads the intent and the code of the form, other tools the unit."""
    save_transform(chain, tmp_path / "warp.nii.gz", "fsl", pair)
    image = nibabel.load(tmp_path / "warp.nii.gz")
    assert int(image.header["intent_code"]) == 2006
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.affine, matrix_of(pair.fixed), atol=1e-4)
    assert image.shape == (*pair.fixed.shape, 3)


def test_a_warp_is_told_from_itks_and_coefficients_are_refused(tmp_path, chain):
    """Both are NIfTI files of vectors: the intent differs."""
    pair = GridPair(grid_around((9, 8, 7), AFFINES["LIA"] * 8), grid_around((8, 9, 7), AFFINES["RAS"] * 8))
    points = pair.fixed.points_world()
    for tool in ("fsl", "itk"):
        save_transform(chain, tmp_path / f"{tool}.nii.gz", tool, pair)
        loaded = load_transform(tmp_path / f"{tool}.nii.gz", pair=pair)
        torch.testing.assert_close(loaded(points), chain(points), atol=1e-3, rtol=0)
    image = nibabel.load(tmp_path / "fsl.nii.gz")
    for code in (2007, 2016):
        image.header["intent_code"] = code
        nibabel.save(image, tmp_path / "coefficients.nii.gz")
        with pytest.raises(PatchMorphError, match=f"must be a displacement field .* got intent {code}"):
            load_transform(tmp_path / "coefficients.nii.gz", pair=pair)
