"""Transforms in Python: images, points, and the objects and files of other libraries."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from registered import registered
from synthetic import AFFINES, grid_around, rotation, smooth_image, smooth_velocity

import patchmorph
from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.io.transforms.formats import save_transform
from patchmorph.patches.blending import rim
from patchmorph.transforms.resample import resample
from patchmorph.transforms.velocity import VelocityField

FIXED = smooth_image(grid_around((44, 50, 42), AFFINES["LIA"] * 4))
MOVING = smooth_image(grid_around((50, 44, 46), AFFINES["oblique"] * 4, (3, -2, 5)))


def faded() -> VelocityField:
    """Zero at the faces of its grid, as those of a registration."""
    field = smooth_velocity(grid_around((24, 26, 22), AFFINES["RAS"] * 8), 4.0)
    return VelocityField(field.velocity * rim(field.grid.shape, 2, field.grid.device), field.grid)


@pytest.fixture(scope="module")
def registration():
    return registered(FIXED, MOVING, rotation(8) @ faded())


def points(count=300) -> np.ndarray:
    return np.random.default_rng(0).uniform(-50, 50, (count, 3))


def test_apply_resamples_as_the_registration_does(registration):
    warped = patchmorph.apply(registration, MOVING, FIXED)
    assert torch.equal(warped.data, registration.warped().data)
    back = patchmorph.apply(registration, FIXED, MOVING, inverse=True)
    expected = resample(FIXED, registration.inverse, MOVING.grid)
    assert torch.equal(back.data, expected.data)


def test_apply_takes_files_and_foreign_objects(registration, tmp_path):
    expected = registration.warped().data
    save_image(MOVING, tmp_path / "moving.nii.gz")
    save_image(FIXED, tmp_path / "fixed.nii.gz")
    save_transform(registration.transform, tmp_path / "map.h5")
    foreign = patchmorph.to_simpleitk_transform(registration)
    for transform in (registration.transform, tmp_path / "map.h5", str(tmp_path / "map.h5"), foreign):
        for image in (MOVING, tmp_path / "moving.nii.gz", MOVING.to_nibabel(), MOVING.to_simpleitk()):
            for reference in (FIXED.grid, tmp_path / "fixed.nii.gz", FIXED.to_nibabel()):
                warped = patchmorph.apply(transform, image, reference)
                torch.testing.assert_close(warped.data, expected, atol=2e-3, rtol=0)


def test_labels_are_recognised_and_never_averaged(registration):
    ids = (MOVING.data > 0.4).to(torch.int16) * 7 + (MOVING.data > 0.6).to(torch.int16) * 11
    labels = Image(ids, MOVING.grid, "labels")
    warped = patchmorph.apply(registration, labels, FIXED)
    assert set(torch.unique(warped.data).tolist()) == {0, 7, 18}
    expected = resample(labels, registration.transform, FIXED.grid, "label")
    assert torch.equal(warped.data, expected.data)
    outside = patchmorph.apply(registration, labels, FIXED, "nearest", background=3)
    assert int((outside.data == 3).sum()) > 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_points_go_from_fixed_to_moving_and_back(registration, dtype):
    given = points().astype(dtype)
    mapped = patchmorph.apply_points(registration, given)
    assert mapped.dtype == dtype
    expected = registration.transform(torch.from_numpy(given).float()[None])[0].numpy()
    np.testing.assert_allclose(mapped, expected, atol=1e-5)
    back = patchmorph.apply_points(registration, mapped, inverse=True)
    np.testing.assert_allclose(back, given, atol=0.02)
    tensor = patchmorph.apply_points(registration, torch.from_numpy(given))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_array_equal(tensor.numpy(), mapped)
    assert patchmorph.apply_points(registration, np.zeros((0, 3))).shape == (0, 3)
    whole = patchmorph.apply_points(registration, np.zeros((1, 3), np.int32))
    assert whole.dtype == np.float32


BAD_POINTS = {
    "list": ([[1, 2, 3]], "must be an array of numpy or torch, got list"),
    "none": (None, "must be an array of numpy or torch, got NoneType"),
    "one": (np.zeros(3), r"must be numbers of shape \(N, 3\), got float64 \(3,\)"),
    "plane": (np.zeros((4, 2)), r"must be numbers of shape \(N, 3\), got float64 \(4, 2\)"),
    "complex": (np.zeros((4, 3), complex), r"must be numbers of shape \(N, 3\), got complex128"),
    "truth": (np.zeros((4, 3), bool), r"must be numbers of shape \(N, 3\), got bool"),
    "objects": (np.zeros((4, 3), object), "must be numbers, got"),
    "nan": (np.full((4, 3), np.nan), "must be finite"),
}


@pytest.mark.parametrize("case", BAD_POINTS)
def test_other_points_are_one_error(registration, case):
    given, message = BAD_POINTS[case]
    with pytest.raises(PatchMorphError, match=message):
        patchmorph.apply_points(registration, given)


@pytest.mark.parametrize("given", [None, 3, np.eye(4), MOVING, ("a", "b")], ids=lambda given: type(given))
def test_other_transforms_are_one_error(given):
    for call in (
        lambda: patchmorph.apply(given, MOVING, FIXED),
        lambda: patchmorph.apply_points(given, points()),
        lambda: patchmorph.to_simpleitk_transform(given),
    ):
        with pytest.raises(PatchMorphError, match=r"transform must be a patchmorph\.Registration"):
            call()


def test_what_else_apply_refuses(registration):
    with pytest.raises(PatchMorphError, match=r"interpolation must be one of auto, .* got sinc"):
        patchmorph.apply(registration, MOVING, FIXED, "sinc")
    with pytest.raises(PatchMorphError, match="reference must be a path"):
        patchmorph.apply(registration, MOVING, None)
    bspline = sitk.BSplineTransform(3)
    with pytest.raises(PatchMorphError, match="must be affine or a displacement field, got BSplineTransform"):
        patchmorph.apply(bspline, MOVING, FIXED)


def mapped_by(transform: sitk.Transform, given: np.ndarray) -> np.ndarray:
    flip = np.array([-1, -1, 1])
    return np.array([transform.TransformPoint((point * flip).tolist()) for point in given]) * flip


def test_simpleitk_maps_points_as_we_do(registration):
    theirs = mapped_by(patchmorph.to_simpleitk_transform(registration), points())
    np.testing.assert_allclose(theirs, patchmorph.apply_points(registration, points()), atol=1e-3)
    inverse = mapped_by(patchmorph.to_simpleitk_transform(registration.inverse), points())
    np.testing.assert_allclose(
        inverse, patchmorph.apply_points(registration, points(), inverse=True), atol=0.3
    )


def as_ants_does(files: list[str], inverted: tuple[bool, ...]) -> sitk.CompositeTransform:
    """The transform of a list in ANTs' order: the first acts on a point first, ITK's last added does."""
    composite = sitk.CompositeTransform(3)
    for name, invert in reversed(list(zip(files, inverted, strict=True))):
        if name.endswith(".mat"):
            one = sitk.ReadTransform(name)
            composite.AddTransform(one.GetInverse() if invert else one)
        else:
            field = sitk.Cast(sitk.ReadImage(name), sitk.sitkVectorFloat64)
            composite.AddTransform(sitk.DisplacementFieldTransform(field))
    return composite


def test_lists_for_ants_are_in_its_order(registration, tmp_path):
    lists = patchmorph.ants_transforms(registration, tmp_path / "out" / "sub-01_")
    prefix = str(tmp_path / "out" / "sub-01_")
    assert lists == {
        "fwdtransforms": [f"{prefix}1Warp.nii.gz", f"{prefix}0GenericAffine.mat"],
        "invtransforms": [f"{prefix}0GenericAffine.mat", f"{prefix}1InverseWarp.nii.gz"],
    }
    forward = mapped_by(as_ants_does(lists["fwdtransforms"], (False, False)), points())
    np.testing.assert_allclose(forward, patchmorph.apply_points(registration, points()), atol=0.1)
    backward = mapped_by(as_ants_does(lists["invtransforms"], (True, False)), points())
    expected = patchmorph.apply_points(registration, points(), inverse=True)
    np.testing.assert_allclose(backward, expected, atol=0.1)  # fields are sampled every 4 mm


def test_a_map_without_a_dense_part_is_the_matrix_alone(tmp_path):
    result = registered(FIXED, MOVING, rotation(8))
    lists = patchmorph.ants_transforms(result, tmp_path / "sub-01_")
    assert lists["fwdtransforms"] == lists["invtransforms"] == [str(tmp_path / "sub-01_0GenericAffine.mat")]
    assert [item.name for item in tmp_path.iterdir()] == ["sub-01_0GenericAffine.mat"]
    theirs = mapped_by(sitk.ReadTransform(lists["fwdtransforms"][0]), points())
    np.testing.assert_allclose(theirs, patchmorph.apply_points(result, points()), atol=1e-4)


def test_a_map_without_an_affine_part_has_the_identity(tmp_path):
    lists = patchmorph.ants_transforms(registered(FIXED, MOVING, faded()), f"{tmp_path}/x")
    matrix = sitk.ReadTransform(lists["fwdtransforms"][1])
    np.testing.assert_allclose(mapped_by(matrix, points()), points(), atol=1e-9)
