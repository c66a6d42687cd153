import gzip

import nibabel
import numpy as np
import pytest
import torch
from synthetic import AFFINES, grid_around, rotation, smooth_velocity

from patchmorph.errors import PatchMorphError
from patchmorph.io import series as frames
from patchmorph.io.grids import matrix_of
from patchmorph.io.images import load_image
from patchmorph.io.series import warp_files
from patchmorph.spatial.sampling import INTERPOLATIONS
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.resample import resample

GRID = grid_around((12, 14, 16), AFFINES["LIA"] * 3)
REFERENCE = grid_around((15, 13, 11), AFFINES["oblique"] * 3)


def written(path, array, zooms=()):
    volume = nibabel.Nifti1Image(array, matrix_of(GRID), dtype=array.dtype)
    volume.header.set_xyzt_units("mm", "sec")
    volume.header.set_zooms((3.0, 3.0, 3.0, *zooms))
    nibabel.save(volume, path)
    return path


def transform():
    return rotation(10) @ smooth_velocity(grid_around((14, 14, 14), AFFINES["RAS"] * 4), 2.0)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mgz"])
def test_each_frame_is_resampled_as_an_image_of_its_own(tmp_path, ending, monkeypatch):
    array = (np.random.default_rng(0).random((*GRID.shape, 2, 3)) * 200).astype(np.int16)
    if ending == ".mgz":
        array = array[..., 0, :]
    source = written(tmp_path / "series.nii.gz", array, (2.5,) * (array.ndim - 3))
    target = tmp_path / f"warped{ending}"
    warp_files([(source, target)], transform(), REFERENCE)
    found = nibabel.load(target)
    assert found.shape == (*REFERENCE.shape, *array.shape[3:])
    assert found.get_data_dtype() == np.dtype(np.int16).newbyteorder(found.get_data_dtype().byteorder)
    np.testing.assert_allclose(found.affine, matrix_of(REFERENCE), atol=1e-4)
    for index in np.ndindex(array.shape[3:]):
        nibabel.save(nibabel.Nifti1Image(array[(..., *index)], matrix_of(GRID)), tmp_path / "one.nii")
        alone = resample(load_image(tmp_path / "one.nii"), transform(), REFERENCE).data[0, 0].numpy()
        same = np.asarray(found.dataobj)[(..., *index)].astype(int) - alone
        assert np.abs(same).max() <= 1  # two headers differ in float32, which may tip a value of n + 1/2
        assert (same == 0).mean() > 0.99
    if ending != ".mgz":
        assert found.header.get_zooms()[3] == 2.5
        assert found.header.get_xyzt_units() == ("mm", "sec")
    monkeypatch.setattr(frames, "KEPT_POINTS", 0)  # points mapped anew for each frame
    warp_files([(source, tmp_path / f"again{ending}")], transform(), REFERENCE)
    np.testing.assert_array_equal(nibabel.load(tmp_path / f"again{ending}").get_fdata(), found.get_fdata())


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize("interpolation", ["linear", "cubic", "nearest", "label"])
def test_any_number_type_is_kept(tmp_path, dtype, interpolation):
    whole = np.dtype(dtype).kind in "iu"
    high = min(np.iinfo(dtype).max, 2**24) if whole else 3.5
    array = np.zeros(GRID.shape, dtype)
    array[3:9, 4:10, 5:11] = high

    def warped(values):
        source = written(tmp_path / "in.nii", values)
        warp_files([(source, tmp_path / "out.nii")], transform(), REFERENCE, interpolation)
        found = nibabel.load(tmp_path / "out.nii")
        assert found.get_data_dtype() == values.dtype
        return np.asarray(found.dataobj)

    values = warped(array)
    if interpolation in ("nearest", "label"):
        assert set(np.unique(values)) == {0, high}
        return
    exact = warped(array.astype(np.float32)).astype(np.float64)
    if interpolation == "cubic":  # splines overshoot at both ends
        assert exact.min() < -0.02 * high
        assert exact.max() > 1.02 * high
    if whole:  # rounded, and nothing wraps round at the ends of the type's range
        exact = exact.round().clip(np.iinfo(dtype).min, np.iinfo(dtype).max)
    # Halves may round either way, and float32 has seven digits.
    np.testing.assert_allclose(values.astype(np.float64), exact, rtol=0, atol=whole + 1e-6 * high)


@pytest.mark.parametrize(("dtype", "label"), [("i4", 2**24 + 3), ("u4", 2**31 + 5), ("f8", 2.0**40 + 1)])
def test_large_ids_survive(tmp_path, dtype, label):
    array = np.zeros(GRID.shape, dtype)
    array[3:9, 4:10, 5:11] = label
    for interpolation in ("nearest", "label"):
        warp_files(
            [(written(tmp_path / "in.nii", array), tmp_path / "out.nii")],
            transform(),
            REFERENCE,
            interpolation,
        )
        assert set(np.unique(np.asarray(nibabel.load(tmp_path / "out.nii").dataobj))) == {0, label}


def test_scaled_numbers_become_floats(tmp_path):
    volume = nibabel.Nifti1Image(np.full(GRID.shape, 10, np.int16), matrix_of(GRID))
    volume.header.set_slope_inter(0.5, 1.0)
    nibabel.save(volume, tmp_path / "in.nii")
    raw = nibabel.load(tmp_path / "in.nii")
    assert (raw.dataobj.slope, raw.dataobj.inter) == (0.5, 1.0)
    expected = raw.get_fdata()[5, 5, 5]
    warp_files([(tmp_path / "in.nii", tmp_path / "out.nii")], AffineTransform.identity(), GRID)
    found = nibabel.load(tmp_path / "out.nii")
    assert found.get_data_dtype() == np.float32
    assert found.get_fdata()[5, 5, 5] == expected


def test_background_is_what_lies_outside(tmp_path):
    far = AffineTransform.translation(torch.tensor([[500.0, 0, 0]]))
    source = written(tmp_path / "in.nii", np.ones(GRID.shape, np.int16))
    for interpolation in ("linear", "cubic", "nearest", "label"):
        warp_files([(source, tmp_path / "out.nii")], far, REFERENCE, interpolation, -7)
        assert set(np.unique(np.asarray(nibabel.load(tmp_path / "out.nii").dataobj))) == {-7}
    with pytest.raises(PatchMorphError, match=r"background must be a number of int16, got 0\.5"):
        warp_files([(source, tmp_path / "out.nii")], far, REFERENCE, "linear", 0.5)


def test_what_cannot_be_warped_leaves_nothing(tmp_path):
    colours = np.zeros(GRID.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / "colours.nii")
    with pytest.raises(PatchMorphError, match="image must hold plain numbers"):
        warp_files([(tmp_path / "colours.nii", tmp_path / "out.nii")], transform(), REFERENCE)
    whole = written(tmp_path / "whole.nii", np.ones((*GRID.shape, 3), np.int16), (1.0,)).read_bytes()
    (tmp_path / "cut.nii").write_bytes(whole[:-8000])
    with pytest.raises(PatchMorphError, match="must be whole, got a file that is too short"):
        warp_files([(tmp_path / "cut.nii", tmp_path / "out.nii")], transform(), REFERENCE)
    assert {item.name for item in tmp_path.iterdir()} == {"colours.nii", "whole.nii", "cut.nii"}


def test_overshoots_of_splines_do_not_wrap_round(tmp_path):
    array = np.zeros(GRID.shape, np.uint16)
    array[3:9, 4:10, 5:11] = 65535
    source = written(tmp_path / "in.nii", array)
    warp_files(
        [(source, tmp_path / "out.nii")], AffineTransform.translation(torch.full((1, 3), 1.3)), GRID, "cubic"
    )
    found = np.asarray(nibabel.load(tmp_path / "out.nii").dataobj)
    assert (found[:2, :3, :4] < 9000).all()  # undershoots are zero, not 65 500
    assert (found[5:7, 6:8, 7:9] > 60000).all()


def test_a_background_that_is_no_number_stays_outside(tmp_path):
    source = written(tmp_path / "in.nii", np.ones(GRID.shape, np.float32))
    half = AffineTransform.translation(torch.tensor([[18.0, 0, 0]]))
    for interpolation in INTERPOLATIONS:
        warp_files([(source, tmp_path / "out.nii")], half, GRID, interpolation, np.nan)
        found = nibabel.load(tmp_path / "out.nii").get_fdata()
        assert 0.4 < np.isnan(found).mean() < 0.6
        np.testing.assert_allclose(found[~np.isnan(found)], 1, atol=1e-5)


def test_ids_that_mgh_cannot_hold_are_refused(tmp_path):
    source = written(tmp_path / "in.nii", np.full(GRID.shape, 2**40, np.int64))
    with pytest.raises(PatchMorphError, match="must hold numbers of >i4, got larger ones"):
        warp_files([(source, tmp_path / "out.mgz")], AffineTransform.identity(), GRID, "nearest")
    assert not (tmp_path / "out.mgz").exists()


def test_header_fields_that_hold_for_the_source_alone_are_cleared(tmp_path):
    """Extensions (ANTs, AFNI and DICOM keep grids there), display ranges, scale factors, and its places."""
    volume = nibabel.Nifti1Image(np.ones(GRID.shape, np.int16), matrix_of(GRID))
    volume.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"grid of the source"))
    volume.header["cal_min"], volume.header["cal_max"] = 3, 700
    volume.header.set_xyzt_units("micron", "msec")
    volume.header.set_sform(matrix_of(GRID), code=4)
    volume.header.set_qform(matrix_of(GRID), code=0)
    volume.header["descrip"] = b"a T1"
    nibabel.save(volume, tmp_path / "in.nii.gz")
    assert len(nibabel.load(tmp_path / "in.nii.gz").header.extensions) == 1
    warp_files([(tmp_path / "in.nii.gz", tmp_path / "out.nii.gz")], AffineTransform.identity(), REFERENCE)
    header = nibabel.load(tmp_path / "out.nii.gz").header
    assert len(header.extensions) == 0
    assert b"grid of the source" not in gzip.decompress((tmp_path / "out.nii.gz").read_bytes())
    assert (header["cal_min"], header["cal_max"]) == (0, 0)
    assert header.get_xyzt_units() == ("mm", "msec")
    assert header["descrip"].item() == b"a T1"
    for place, code in (header.get_sform(coded=True), header.get_qform(coded=True)):
        assert code == 1
        np.testing.assert_allclose(place, matrix_of(REFERENCE), atol=1e-3)  # a quaternion in float32
    np.testing.assert_allclose(header.get_zooms(), REFERENCE.spacing_mm[0], atol=1e-5)


def test_several_files_keep_their_own_numbers(tmp_path):
    """One transform for all: each file in its own type and with its own number of frames."""
    generator = np.random.default_rng(0)
    arrays = [
        (generator.random((*GRID.shape, 2)) * 100).astype(np.float32),
        (generator.random(GRID.shape) * 100).astype(np.uint8),
    ]
    names = ["a", "b"]
    paths = [
        (written(tmp_path / f"{name}.nii", array, (1.5,) * (array.ndim - 3)), tmp_path / f"{name}_out.nii")
        for name, array in zip(names, arrays, strict=True)
    ]
    warp_files(paths, transform(), REFERENCE)
    for (source, target), array in zip(paths, arrays, strict=True):
        together = nibabel.load(target)
        assert together.get_data_dtype() == array.dtype
        warp_files([(source, tmp_path / "alone.nii")], transform(), REFERENCE)
        alone = np.asarray(nibabel.load(tmp_path / "alone.nii").dataobj)
        np.testing.assert_array_equal(np.asarray(together.dataobj), alone)
        assert alone.std() > 1


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [("u1", "u1"), ("i1", "i4"), ("u2", "i4"), ("i2", "i2"), ("u4", "i4"), ("f4", "f4"), ("f8", "f4")],
)
def test_types_that_mgh_lacks_become_ones_that_hold_their_numbers(tmp_path, dtype, kept):
    high = min(np.iinfo(dtype).max, 2**31 - 1) if np.dtype(dtype).kind in "iu" else 3.5
    source = written(tmp_path / "in.nii", np.full(GRID.shape, high, dtype))
    warp_files([(source, tmp_path / "out.mgz")], AffineTransform.identity(), GRID, "nearest")
    found = nibabel.load(tmp_path / "out.mgz")
    assert found.get_data_dtype().newbyteorder("=") == np.dtype(kept)
    inner = np.asarray(found.dataobj)[1:-1, 1:-1, 1:-1]  # the header is float32: the rim may lie outside
    assert set(np.unique(inner)) == {high}


@pytest.mark.parametrize("dtype", ["i8", "u8", "i4", "u4", "u2", "i2", "u1", "i1"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("end", ["min", "max"])
def test_the_ends_of_a_types_range_do_not_wrap_round(tmp_path, dtype, interpolation, end):
    """float32 has no 2⁶³ − 1, and splines overshoot."""
    limit = min(int(getattr(np.iinfo(dtype), end)), 2**63 - 1)
    array = np.zeros(GRID.shape, dtype)
    array[3:9, 4:10, 5:11] = limit
    shift = AffineTransform.translation(torch.full((1, 3), 1.3))
    warp_files([(written(tmp_path / "in.nii", array), tmp_path / "out.nii")], shift, GRID, interpolation)
    found = np.asarray(nibabel.load(tmp_path / "out.nii").dataobj)
    inner = found[5:7, 6:8, 7:9]
    if interpolation in ("nearest", "label"):
        assert (inner == limit).all()
    else:
        np.testing.assert_allclose(inner.astype(float), limit, rtol=0.1, atol=1)
    outside = found[:1, :2, :3].astype(float)
    assert (np.abs(outside) <= 0.2 * abs(limit) + 1).all()


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "i8"])
@pytest.mark.parametrize("background", [0, 7])
def test_points_that_are_nowhere_are_background(tmp_path, dtype, background):
    """A map may be NaN where it is not defined."""

    nowhere = DisplacementField(torch.full((1, 3, *GRID.shape), torch.nan), GRID)
    source = written(tmp_path / "in.nii", np.full(GRID.shape, 5, dtype))
    for interpolation in INTERPOLATIONS:
        warp_files([(source, tmp_path / "out.nii")], nowhere, GRID, interpolation, background)
        assert set(np.unique(np.asarray(nibabel.load(tmp_path / "out.nii").dataobj))) == {background}


def test_what_was_chosen_is_said(tmp_path):
    labels = np.zeros(GRID.shape, np.int16)
    labels[3:9, 4:10, 5:11] = 17
    labels[5:7] = 3
    image = (np.random.default_rng(0).random(GRID.shape) * 200).astype(np.uint8)
    paths = [
        (written(tmp_path / f"{name}.nii", array), tmp_path / f"{name}_out.nii")
        for name, array in (("a", labels), ("b", image))
    ]
    said = warp_files(paths, transform(), REFERENCE, "auto")
    assert said[0] == f"{tmp_path / 'a.nii'}: label interpolation (3 different whole numbers)"
    assert said[1].startswith(f"{tmp_path / 'b.nii'}: linear interpolation (0 % of neighbours are equal")
    assert set(np.unique(nibabel.load(tmp_path / "a_out.nii").get_fdata())) == {0, 3, 17}
    expected = resample(load_image(tmp_path / "b.nii"), transform(), REFERENCE).data[0, 0]
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "b_out.nii").dataobj), expected)
    assert warp_files(paths[1:], transform(), REFERENCE, "cubic")[0].endswith(
        "cubic interpolation (as asked for)"
    )
