"""Vector and tensor images are turned with the map, or refused; none is resampled as if it were scalar."""

import nibabel
import numpy as np
import pytest
from niftis import write_nifti
from synthetic import AFFINES, grid_around, rotation

from patchmorph.errors import PatchMorphError
from patchmorph.io.grids import matrix_of
from patchmorph.io.series import warp_files
from patchmorph.transforms.base import AffineTransform

GRID = grid_around((14, 15, 16), AFFINES["LIA"] * 2)
OTHER = grid_around((12, 13, 11), AFFINES["oblique"] * 2)
TURN = rotation(50).matrix[0, :3, :3].numpy()
FLIP = np.diag([-1.0, -1, 1])
VECTOR = np.array([1.0, 2, -0.5])
TENSOR = np.array([[2.0, 0.3, -0.2], [0.3, 1, 0.4], [-0.2, 0.4, 0.5]])
LOWER = np.tril_indices(3)
INTENTS = {1005: "symmetric tensors", 1006: "displacement vectors", 1007: "vectors"}


def constant(path, components, intent=0, dims=(1,), dtype=np.float32):
    values = np.broadcast_to(components, (*GRID.shape, *dims, len(components))).astype(dtype)
    return write_nifti(path, values, matrix_of(GRID), intent_code=intent)


def warped(path, reorient, interpolation="auto"):
    target = path.parent / "out.nii"
    said = warp_files([(path, target)], rotation(50), OTHER, interpolation, reorient=reorient)
    image = nibabel.load(target)
    middle = np.asarray(image.dataobj)[5:7, 5:7, 5:7]
    assert np.ptp(middle.reshape(8, -1), axis=0).max() < 1e-4
    return middle[0, 0, 0].ravel(), image, said[0]


@pytest.mark.parametrize("intent", [1006, 1007, 0])
@pytest.mark.parametrize("dims", [(1,), (), (1, 1)])
@pytest.mark.parametrize(("axes", "frame"), [("ras", np.eye(3)), ("lps", FLIP)])
def test_vectors_are_turned(tmp_path, intent, dims, axes, frame):
    found, image, said = warped(constant(tmp_path / "v.nii", frame @ VECTOR, intent, dims), axes)
    np.testing.assert_allclose(found, frame @ TURN.T @ VECTOR, atol=1e-4)
    assert image.shape == (*OTHER.shape, *dims, 3)
    assert int(image.header["intent_code"]) == intent
    assert said.endswith("linear interpolation (components), turned by the map's rotation (finite strain)")


@pytest.mark.parametrize("intent", [1005, 0])
@pytest.mark.parametrize(("axes", "frame"), [("ras", np.eye(3)), ("lps", FLIP)])
@pytest.mark.parametrize("interpolation", ["linear", "nearest"])
def test_tensors_are_turned(tmp_path, intent, axes, frame, interpolation):
    path = constant(tmp_path / "t.nii.gz", (frame @ TENSOR @ frame)[LOWER], intent)
    found, image, _ = warped(path, axes, interpolation)
    np.testing.assert_allclose(found, (frame @ TURN.T @ TENSOR @ TURN @ frame)[LOWER], atol=2e-4)
    assert int(image.header["intent_code"]) == intent


@pytest.mark.parametrize("intent", INTENTS)
def test_components_that_turn_need_a_statement(tmp_path, intent):
    count = 6 if intent == 1005 else 3
    path = constant(tmp_path / "in.nii", np.arange(count) + 0.5, intent)
    with pytest.raises(PatchMorphError, match=rf"for {INTENTS[intent]} \(NIfTI intent {intent};") as error:
        warp_files([(path, tmp_path / "out.nii")], rotation(50), OTHER)
    for remedy in ("--reorient must be ras or lps", "or none", "patchmorph compose", str(path)):
        assert remedy in str(error.value)
    assert not (tmp_path / "out.nii").exists()
    found, image, said = warped(path, "none")
    np.testing.assert_allclose(found, np.arange(count) + 0.5, atol=1e-4)
    assert int(image.header["intent_code"]) == intent
    assert "turned" not in said


@pytest.mark.parametrize(
    ("intent", "count", "kind"), [(1004, 9, "matrices"), (1010, 4, "quaternions"), (1004, 6, "matrices")]
)
def test_components_that_cannot_be_turned_are_refused(tmp_path, intent, count, kind):
    path = constant(tmp_path / "in.nii", np.ones(count), intent)
    with pytest.raises(PatchMorphError, match=f"--reorient must be .*none, for {kind}"):
        warp_files([(path, tmp_path / "out.nii")], rotation(50), OTHER)
    with pytest.raises(PatchMorphError, match=f"must get one vector .*, got {kind}, float32"):
        warp_files([(path, tmp_path / "out.nii")], rotation(50), OTHER, reorient="ras")
    assert warped(path, "none")[0] == pytest.approx(np.ones(count), abs=1e-4)


@pytest.mark.parametrize(
    ("count", "dims", "dtype"), [(4, (), "f4"), (3, (2,), "f4"), (3, (), "i2"), (200, (), "f8")]
)
def test_a_series_is_no_vector(tmp_path, count, dims, dtype):
    path = constant(tmp_path / "in.nii", np.ones(count), 0, dims, dtype)
    with pytest.raises(PatchMorphError, match="--reorient lps must get one vector"):
        warp_files([(path, tmp_path / "out.nii")], rotation(50), OTHER, reorient="lps")


@pytest.mark.parametrize("intent", [0, 2003, 2004, 1001])
def test_colours_and_scalars_do_not_turn(tmp_path, intent):
    path = constant(tmp_path / "in.nii", VECTOR, intent)
    np.testing.assert_allclose(warped(path, None)[0], VECTOR, atol=1e-5)


def test_an_image_of_one_component_beside_vectors_is_a_scalar(tmp_path):
    vectors = constant(tmp_path / "v.nii", VECTOR, 1007)
    scalar = write_nifti(tmp_path / "s.nii", np.full(GRID.shape, 2.5, np.float32), matrix_of(GRID))
    paths = [(vectors, tmp_path / "v_out.nii"), (scalar, tmp_path / "s_out.nii")]
    said = warp_files(paths, AffineTransform(rotation(50).matrix), OTHER, "auto", reorient="ras")
    assert ["turned" in line for line in said] == [True, False]
    found = np.asarray(nibabel.load(tmp_path / "v_out.nii").dataobj)[5, 5, 5, 0]
    np.testing.assert_allclose(found, TURN.T @ VECTOR, atol=1e-4)
    assert nibabel.load(tmp_path / "s_out.nii").get_fdata()[5, 5, 5] == pytest.approx(2.5)
