"""SimpleITK reads our transform files and agrees."""

import h5py
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from foreign.conftest import world_points
from synthetic import grid_around, smooth_image

from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.grids import GridPair
from patchmorph.io.images import save_image
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.fields import as_fields
from patchmorph.transforms.resample import resample


def simpleitk_error(transform, path) -> np.ndarray:
    """Distance (mm) between where SimpleITK, reading ``path``, and ``transform`` take points."""
    theirs, points, flip = sitk.ReadTransform(str(path)), world_points(), np.array([-1, -1, 1])
    mapped = [np.array(theirs.TransformPoint((p * flip).tolist())) * flip for p in points[0].double().numpy()]
    return np.linalg.norm(transform(points)[0].numpy() - mapped, axis=-1)


def test_simpleitk_maps_points_as_we_do(tmp_path, chain):
    """Points far outside the fields too: there both say that nothing moves."""
    save_transform(chain, tmp_path / "transform.h5")
    assert simpleitk_error(chain, tmp_path / "transform.h5").max() < 1e-3  # our coordinates are float32


def test_an_inverse_is_tabulated_close_to_the_exact_one(tmp_path, chain):
    save_transform(chain.inverse(), tmp_path / "inverse.h5")
    error = simpleitk_error(chain.inverse(), tmp_path / "inverse.h5")
    assert error.mean() < 0.03  # on a grid of 2.5 mm
    assert error.max() < 0.3


def test_our_files_come_back_as_the_same_map(tmp_path, chain):
    save_transform(chain, tmp_path / "transform.h5")
    loaded = load_transform(tmp_path / "transform.h5")
    points = world_points()
    torch.testing.assert_close(loaded(points), chain(points), atol=1e-3, rtol=0)


def test_labels_warped_by_simpleitk_are_the_same(tmp_path, chain, linear):
    moving_grid = grid_around((60, 64, 58), linear * 3, (5, 5, 5))
    labels = (smooth_image(moving_grid).data * 12).to(torch.int16)
    reference = grid_around((50, 52, 54), np.eye(3) * 3)
    save_image(Image(labels, moving_grid), tmp_path / "labels.nii.gz")
    save_image(
        Image(torch.zeros(1, 1, *reference.shape, dtype=torch.uint8), reference),
        tmp_path / "reference.nii.gz",
    )
    save_transform(chain, tmp_path / "transform.h5")
    ours = resample(Image(labels, moving_grid), chain, reference, "nearest").data[0, 0].numpy()
    theirs = sitk.Resample(
        sitk.ReadImage(str(tmp_path / "labels.nii.gz")),
        sitk.ReadImage(str(tmp_path / "reference.nii.gz")),
        sitk.ReadTransform(str(tmp_path / "transform.h5")),
        sitk.sitkNearestNeighbor,
    )
    theirs = sitk.GetArrayFromImage(theirs).transpose(2, 1, 0)
    assert len(np.unique(ours)) > 5
    assert (ours == theirs).mean() >= 0.999  # a point on a voxel's face may fall on either side


@pytest.mark.parametrize("kind", ["euler", "scale", "translation"])
def test_other_linear_transforms_of_itk_are_read(tmp_path, kind):
    transform = {
        "euler": lambda: sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, 0.2, 0.3, (4.0, 5.0, 6.0)),
        "scale": lambda: sitk.ScaleTransform(3, (1.1, 0.9, 1.3)),
        "translation": lambda: sitk.TranslationTransform(3, (1.0, 2.0, 3.0)),
    }[kind]()
    sitk.WriteTransform(transform, str(tmp_path / "other.tfm"))
    points = world_points(20)
    flip = np.array([-1, -1, 1])
    expected = [
        np.array(transform.TransformPoint((p * flip).tolist())) * flip for p in points[0].double().numpy()
    ]
    np.testing.assert_allclose(load_transform(tmp_path / "other.tfm")(points)[0].numpy(), expected, atol=1e-3)


def test_what_is_no_transform_is_refused(tmp_path, chain, capfd):
    with pytest.raises(PatchMorphError, match="must be an existing file"):
        load_transform(tmp_path / "missing.h5")
    (tmp_path / "text.h5").write_text("no transform")
    with pytest.raises(PatchMorphError, match="must be a whole file of itk"):
        load_transform(tmp_path / "text.h5")
    save_transform(chain, tmp_path / "whole.h5")
    (tmp_path / "cut.h5").write_bytes((tmp_path / "whole.h5").read_bytes()[:5000])
    with pytest.raises(PatchMorphError, match="must be a whole file of itk"):
        load_transform(tmp_path / "cut.h5")
    assert capfd.readouterr().err == ""
    sitk.WriteTransform(sitk.Euler2DTransform(), str(tmp_path / "flat.tfm"))
    with pytest.raises(PatchMorphError, match="must be 3D, got 2D"):
        load_transform(tmp_path / "flat.tfm")
    sitk.WriteTransform(sitk.BSplineTransform(3), str(tmp_path / "spline.tfm"))
    with pytest.raises(PatchMorphError, match="got BSplineTransform"):
        load_transform(tmp_path / "spline.tfm")
    with pytest.raises(PatchMorphError, match=r"must get an affine transform, got one with 2 fields"):
        save_transform(chain, tmp_path / "transform.txt")
    with pytest.raises(PatchMorphError, match=r"must end in \.safetensors, .*, got .*transform\.pkl"):
        save_transform(chain, tmp_path / "transform.pkl")


def test_a_foreign_field_is_zero_outside_its_grid(tmp_path):
    """ITK's meaning of a field that ends abruptly, as other tools write them."""
    field = sitk.GetImageFromArray(np.full((6, 6, 6, 3), 5.0), isVector=True)
    field.SetSpacing((2.0, 2.0, 2.0))
    sitk.WriteTransform(sitk.DisplacementFieldTransform(field), str(tmp_path / "warp.h5"))
    points = torch.tensor(
        [[[-5.0, -5, 5], [-50.0, -50, 50]]]
    )  # RAS: the first inside, the second far outside
    moved = load_transform(tmp_path / "warp.h5")(points) - points
    torch.testing.assert_close(moved, torch.tensor([[[-5.0, -5, 5], [0, 0, 0]]]))


@pytest.mark.parametrize("error", [OSError, RuntimeError])  # h5py raises either, by the call that fails
def test_a_file_that_cannot_be_written_whole_is_not_left_half(tmp_path, chain, monkeypatch, error):
    def full_disk(group, *given, **named):
        (tmp_path / "before").write_text("")  # the disk filled up while writing
        raise error("write failed")

    monkeypatch.setattr(h5py.Group, "create_dataset", full_disk)
    with pytest.raises(PatchMorphError, match=r"got .*transform\.h5: write failed$"):
        save_transform(chain, tmp_path / "transform.h5")
    assert [item.name for item in tmp_path.iterdir()] == ["before"]


def test_displacements_are_compressed_and_rounded_to_a_quarter_of_a_micron(tmp_path, chain):
    save_transform(chain, tmp_path / "transform.h5")
    fields = [part for part in as_fields(chain) if isinstance(part, DisplacementField)]
    with h5py.File(tmp_path / "transform.h5") as file:
        groups = [file[f"TransformGroup/{k}"] for k in range(1, len(file["TransformGroup"]))]
        of_fields = [group for group in groups if len(group["TransformFixedParameters"]) > 3]
        stored = [group["TransformParameters"] for group in of_fields]
        assert len(stored) == len(fields) > 0
        for data, field in zip(stored, fields, strict=True):
            assert data.compression == "gzip"
            lps = field.displacement[0].movedim(0, -1).numpy().transpose(2, 1, 0, 3) * (-1, -1, 1)
            assert abs(data[:] - lps.ravel()).max() <= 2**-13 + 1e-6  # half a step


@pytest.mark.parametrize("ending", [".tfm", ".txt", ".mat"])
def test_an_affine_file_is_the_same_map_in_simpleitk(tmp_path, affine, ending):
    save_transform(affine, tmp_path / f"affine{ending}")
    assert simpleitk_error(affine, tmp_path / f"affine{ending}").max() < 1e-4
    assert load_transform(tmp_path / f"affine{ending}").matrix == pytest.approx(affine.matrix, abs=1e-9)


def test_a_dense_field_is_the_same_map_in_simpleitk(tmp_path, chain, pair):
    """As ANTs' ``1Warp.nii.gz``: on the fixed grid, so at its points."""
    save_transform(chain, tmp_path / "warp.nii.gz", pair=pair)
    field = sitk.ReadImage(str(tmp_path / "warp.nii.gz"), sitk.sitkVectorFloat64)
    theirs, flip = sitk.DisplacementFieldTransform(field), np.array([-1, -1, 1])
    points = pair.fixed.points_world().reshape(1, -1, 3)[:, ::997]
    found = [np.array(theirs.TransformPoint((p * flip).tolist())) * flip for p in points[0].double().numpy()]
    np.testing.assert_allclose(found, chain(points)[0].numpy(), atol=1e-3)  # header and numbers are float32
    torch.testing.assert_close(
        load_transform(tmp_path / "warp.nii.gz")(points), chain(points), atol=1e-3, rtol=0
    )


def test_a_sheared_grid_is_refused(tmp_path, chain):
    sheared = np.eye(3) * 2
    sheared[0, 1] = 0.5
    with pytest.raises(PatchMorphError, match="must be on a grid without shear"):
        save_transform(chain, tmp_path / "warp.nii.gz", pair=GridPair(grid_around((9, 9, 9), sheared)))


@pytest.mark.parametrize(("ours", "theirs"), [("linear", sitk.sitkLinear), ("cubic", sitk.sitkBSpline)])
def test_intensities_warped_by_simpleitk_are_the_same(tmp_path, chain, pair, ours, theirs):
    moving = smooth_image(pair.moving)
    save_image(moving, tmp_path / "moving.nii.gz")
    save_image(Image(torch.zeros(1, 1, *pair.fixed.shape), pair.fixed), tmp_path / "fixed.nii.gz")
    save_transform(chain, tmp_path / "transform.h5")
    files = [sitk.ReadImage(str(tmp_path / f"{name}.nii.gz")) for name in ("moving", "fixed")]
    transform = sitk.ReadTransform(str(tmp_path / "transform.h5"))
    expected = sitk.GetArrayFromImage(sitk.Resample(*files, transform, theirs)).transpose(2, 1, 0)
    found = resample(moving, chain, pair.fixed, ours).data[0, 0].numpy()
    inside = pair.moving.to_voxel(chain(pair.fixed.points_world()))[0]  # at the rim ITK clamps, we fade
    last = torch.tensor(pair.moving.shape) - 1
    counts = ((inside > 0) & (inside < last)).all(-1).numpy()
    assert counts.mean() > 0.2
    np.testing.assert_allclose(found[counts], expected[counts], atol=2e-3)  # headers in float32


def test_the_last_transform_of_a_composite_acts_first(tmp_path):
    turn = sitk.Euler3DTransform((4.0, -3.0, 2.0), 0.3, -0.2, 0.1, (5.0, 6.0, 7.0))
    stretch = sitk.ScaleTransform(3, (1.5, 0.7, 1.1))
    shift = sitk.TranslationTransform(3, (10.0, 20.0, -5.0))
    sitk.WriteTransform(sitk.CompositeTransform([shift, stretch, turn]), str(tmp_path / "three.h5"))
    points, flip = world_points(20), np.array([-1, -1, 1])
    expected = []
    for point in points[0].double().numpy() * flip:
        inner = stretch.TransformPoint(turn.TransformPoint(point.tolist()))
        expected.append(np.array(shift.TransformPoint(inner)) * flip)
    np.testing.assert_allclose(load_transform(tmp_path / "three.h5")(points)[0].numpy(), expected, atol=1e-3)
