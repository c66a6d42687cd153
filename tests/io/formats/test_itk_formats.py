"""NRRD and MetaImage: where voxels lie, what headers state, and files that are damaged."""

import re

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from foreign_images import itk_image, write_itk, write_nibabel
from synthetic import AFFINES

from patchmorph.errors import PatchMorphError
from patchmorph.io.frames import Frames
from patchmorph.io.grids import matrix_of
from patchmorph.io.images import load_grid, load_image, load_reference
from patchmorph.io.stated import Stated

VALUES = np.random.default_rng(0).integers(-900, 900, (5, 6, 7)).astype(np.int16)
ENDINGS = (".nrrd", ".nhdr", ".mha", ".mhd")


def affine(linear, origin=(10.5, -20, 30)) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, origin
    return matrix


MATRIX = affine(AFFINES["oblique"] @ np.diag([1.0, 2, 3]))


def refused(path, message, read=load_image):
    with pytest.raises(PatchMorphError, match=message) as error:
        read(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def edited(path, *changes: tuple[str, str]):
    """Replace text of the header."""
    content = path.read_bytes()
    for old, new in changes:
        content, count = re.subn(old.encode(), new.encode(), content, count=1)
        assert count == 1
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
def test_voxels_and_their_place_are_those_that_were_written(tmp_path, linear, ending, packed):
    matrix = affine(linear @ np.diag([1.0, 2, 3]))
    path = write_itk(tmp_path / f"image{ending}", VALUES, matrix, packed)
    image = load_image(path)
    np.testing.assert_array_equal(image.data[0, 0], VALUES)
    np.testing.assert_allclose(matrix_of(image.grid), matrix, atol=1e-6)
    assert image.notes == image.doubts == ()


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_number_types_are_kept(tmp_path, ending, dtype):
    path = write_itk(tmp_path / f"image{ending}", abs(VALUES).clip(0, 100).astype(dtype), MATRIX)
    assert Frames(path).dtype == np.dtype(dtype)
    np.testing.assert_array_equal(next(iter(Frames(path))), abs(VALUES).clip(0, 100))


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz", "image"])
def test_the_content_of_a_file_decides_and_not_its_name(tmp_path, ending, name):
    write_itk(tmp_path / f"image{ending}", VALUES, MATRIX, True).rename(tmp_path / name)
    np.testing.assert_array_equal(load_image(tmp_path / name).data[0, 0], VALUES)


@pytest.mark.parametrize(("space", "signs"), [("right-anterior-superior", 1), ("RAS", 1), ("LPS", -1)])
def test_a_nrrd_in_any_named_space_is_in_ras(tmp_path, space, signs):
    path = write_itk(tmp_path / "image.nrrd", VALUES, np.diag([2.0, 3, 4, 1]))
    edited(
        path,
        ("left-posterior-superior", space),
        (r"space directions: .*", "space directions: (2,0,0) (0,3,0) (0,0,4)"),
    )
    np.testing.assert_allclose(matrix_of(load_grid(path)), np.diag([2.0 * signs, 3 * signs, 4, 1]))


@pytest.mark.parametrize(("unit", "mm"), [("um", 1e-3), ("microns", 1e-3), ("m", 1e3), ("cm", 10), ("mm", 1)])
def test_units_of_a_nrrd_are_honoured(tmp_path, unit, mm):
    path = edited(
        write_itk(tmp_path / "image.nrrd", VALUES, MATRIX),
        (r"kinds:", f'space units: "{unit}" "{unit}" "{unit}"\nkinds:'),
    )
    image = load_image(path)
    np.testing.assert_allclose(matrix_of(image.grid)[:3], mm * MATRIX[:3], atol=1e-5 * mm)
    assert image.notes == (() if mm == 1 else (f"{path}: lengths in {unit} were converted to mm",))


def test_the_unit_of_a_metaimage_is_honoured(tmp_path):
    path = edited(
        write_itk(tmp_path / "image.mha", VALUES, MATRIX), ("DimSize", "DistanceUnits = um\nDimSize")
    )
    image = load_image(path)
    np.testing.assert_allclose(matrix_of(image.grid)[:3], 1e-3 * MATRIX[:3], atol=1e-8)
    assert image.notes == (f"{path}: lengths in um were converted to mm",)


UNORIENTED = {
    "scanner": (".nrrd", [("left-posterior-superior", "scanner-xyz")], "its space is scanner-xyz"),
    "spacings": (
        ".nrrd",
        [(r"space: .*\n", ""), (r"space directions: .*", "spacings: 1 2 3"), (r"space origin: .*\n", "")],
        "its space is not stated",
    ),
    "metaimage": (".mha", [(r"TransformMatrix = .*\n", "")], "its header has no TransformMatrix"),
}


@pytest.mark.parametrize("case", UNORIENTED)
def test_a_header_without_an_orientation_is_a_doubt_unless_one_is_stated(tmp_path, case):
    ending, changes, reason = UNORIENTED[case]
    path = edited(write_itk(tmp_path / f"image{ending}", VALUES, np.diag([-1.0, -2, 3, 1])), *changes)
    image = load_image(path)
    (doubt,) = image.doubts
    assert f"the orientation is unknown, since {reason}; its axes were taken as LPS" in doubt
    for stated in ("PIR", Stated(origin="asl"), Stated(directions="PIR", spacing_mm=(1.0, 2.0, 3.0))):
        told = load_image(path, stated)
        assert told.doubts == ()
        assert f"{reason}; its axes were taken as PIR, as stated" in told.notes[0]
        expected = np.array([[0, 0, 3, -9], [-1, 0, 0, 2], [0, -2, 0, 5], [0, 0, 0, 1]])
        np.testing.assert_allclose(matrix_of(told.grid), expected)


def test_sizes_that_a_metaimage_lacks_must_be_stated(tmp_path):
    path = edited(write_itk(tmp_path / "image.mha", VALUES, MATRIX), (r"ElementSpacing = .*\n", ""))
    refused(path, r"voxel sizes must be stated .*no ElementSpacing, got none")
    image = load_image(path, Stated(spacing_mm=(1.0, 2.0, 3.0)))
    np.testing.assert_allclose(matrix_of(image.grid), MATRIX, atol=1e-6)


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii"])
def test_sizes_of_a_header_are_kept_with_a_note(tmp_path, ending):
    if ending == ".nii":
        path = write_nibabel(tmp_path / "image.nii", VALUES, MATRIX)
    else:
        path = write_itk(tmp_path / f"image{ending}", VALUES, MATRIX)
    image = load_image(path, Stated(origin="lpi", spacing_mm=0.025))
    np.testing.assert_allclose(matrix_of(image.grid), MATRIX, atol=1e-5)
    (note,) = image.notes
    assert note == f"{path}: its header's voxel sizes were kept; 0.025, 0.025, 0.025 mm were stated"


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_several_values_a_voxel_are_frames(tmp_path, ending):
    vectors = np.random.default_rng(1).random((5, 6, 7, 3)).astype(np.float32)
    path = write_itk(tmp_path / f"image{ending}", vectors, MATRIX)
    refused(path, r"must be one 3D volume, got shape \(5, 6, 7, 3\)")
    for k, frame in enumerate(Frames(path)):
        np.testing.assert_array_equal(frame, vectors[..., k])
    assert len(Frames(path)) == 3


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_a_time_series_is_frames_and_one_frame_a_volume(tmp_path, ending):
    for count in (1, 4):
        series = sitk.JoinSeries([itk_image(VALUES + k, MATRIX) for k in range(count)])
        sitk.WriteImage(series, str(tmp_path / f"image{count}{ending}"))
    path = tmp_path / f"image4{ending}"
    refused(path, r"must be one 3D volume, got shape \(5, 6, 7, 4\)")
    for k, frame in enumerate(Frames(path)):
        np.testing.assert_array_equal(frame, VALUES + k)
    np.testing.assert_allclose(matrix_of(load_grid(path)), MATRIX, atol=1e-6)
    np.testing.assert_array_equal(load_image(tmp_path / f"image1{ending}").data[0, 0], VALUES)


def test_two_dimensions_and_complex_numbers_are_refused(tmp_path):
    sitk.WriteImage(itk_image(VALUES, MATRIX)[:, :, 0], str(tmp_path / "flat.nrrd"))
    refused(tmp_path / "flat.nrrd", r"must be one 3D volume, got shape \(5, 6\)")
    complex_ = sitk.RealAndImaginaryToComplex(*[sitk.Cast(itk_image(VALUES, MATRIX), sitk.sitkFloat32)] * 2)
    sitk.WriteImage(complex_, str(tmp_path / "complex.nrrd"))
    refused(tmp_path / "complex.nrrd", "must hold plain numbers, got complex of 32-bit float")


VOXELS = {".nrrd": ".nrrd", ".mha": ".mha", ".nhdr": (".raw", ".raw.gz"), ".mhd": (".raw", ".zraw")}


def voxels_of(path, packed):
    ending = VOXELS[path.suffix]
    return path.with_suffix("").with_name(path.stem + (ending if isinstance(ending, str) else ending[packed]))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("cut", [10, 0.5])
def test_a_truncated_file_is_one_line(tmp_path, capfd, ending, packed, cut):
    path = write_itk(tmp_path / f"image{ending}", VALUES, MATRIX, packed)
    voxels = voxels_of(path, packed)
    content = voxels.read_bytes()
    voxels.write_bytes(content[: int(len(content) * cut) if cut < 1 else -cut])
    with pytest.raises(PatchMorphError, match=r"must be (whole|a readable|intact)") as error:
        load_image(path)
    assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("ending", ENDINGS)
def test_damage_in_a_packed_file_is_noticed_by_all_that_use_it(tmp_path, ending):
    path = write_itk(tmp_path / f"image{ending}", VALUES, MATRIX, True)
    voxels = voxels_of(path, True)
    content = bytearray(voxels.read_bytes())
    content[-30] ^= 0x55
    voxels.write_bytes(content)
    for read in (load_image, load_reference):
        with pytest.raises(PatchMorphError, match=r"must be (a readable NRRD file|intact)"):
            read(path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_header_of_more_voxels_than_the_file_holds_takes_no_memory(tmp_path, ending):
    path = write_itk(tmp_path / f"image{ending}", VALUES, MATRIX)
    edited(path, ("(sizes: |DimSize = )5 6 7", r"\g<1>9000 9000 9000"))
    for read in (load_image, load_grid, Frames):
        with pytest.raises(PatchMorphError, match="must be whole, got a file that is too short"):
            read(path)


@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
def test_a_header_without_its_voxels_is_one_line(tmp_path, ending):
    path = write_itk(tmp_path / f"image{ending}", VALUES, MATRIX)
    (tmp_path / "image.raw").unlink()
    refused(path, r"(must be in an existing file|must be a readable)")


@pytest.mark.parametrize(
    "content", [b"NRRD0004\n", b"NRRD0004\ntype: short\n\n", b"NRRD0009\nsizes: x\n\nabc"]
)
def test_a_broken_nrrd_header_is_one_line(tmp_path, content):
    (tmp_path / "image.nrrd").write_bytes(content)
    refused(tmp_path / "image.nrrd", "must be a readable NRRD file")


@pytest.mark.parametrize(
    "content", [b"ObjectType = Image\nNDims = 3\n", b"NDims = x\nElementDataFile = LOCAL\n"]
)
def test_a_broken_metaimage_header_is_one_line(tmp_path, content):
    (tmp_path / "image.mha").write_bytes(content)
    refused(tmp_path / "image.mha", "must be a readable MetaImage")
