"""DICOM series: one volume of parallel, evenly spaced slices, or one line why not."""

import locale

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from foreign_images import UIDS, itk_image, write_dicom
from synthetic import AFFINES

from patchmorph.errors import PatchMorphError
from patchmorph.io.grids import matrix_of
from patchmorph.io.images import load_grid, load_image, load_reference
from patchmorph.io.quiet import quiet_libraries

VALUES = np.random.default_rng(0).integers(0, 900, (9, 8, 7)).astype(np.int16)
MATRIX = np.array([[-1.5, 0, 0, 10], [0, -1.25, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1.0]])


@pytest.fixture
def folder(tmp_path):
    return write_dicom(tmp_path / "scan", VALUES, MATRIX)


def refused(path, message):
    for read in (load_image, load_grid):
        with pytest.raises(PatchMorphError, match=message) as error:
            read(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["LPS", "LIA", "oblique"])
def test_a_folder_is_one_volume_whatever_the_names_of_its_files(tmp_path, name):
    matrix = np.eye(4)
    linear = AFFINES[name] @ np.diag([1.5, 1.25, 3])
    matrix[:3, :3] = linear * np.sign(np.linalg.det(linear))  # slices are sorted along their normal
    matrix[:3, 3] = 10, -20, 30
    image = load_image(write_dicom(tmp_path / "scan", VALUES, matrix))
    np.testing.assert_array_equal(image.data[0, 0], VALUES)
    np.testing.assert_allclose(matrix_of(image.grid), matrix, atol=1e-6)
    assert image.data.dtype.itemsize == 2
    assert image.notes == image.doubts == ()


@pytest.mark.parametrize(("compressor", "syntax"), [("JPEG2000", b".4.90"), ("JPEG", b".4.70")])
def test_compressed_slices_are_read(tmp_path, compressor, syntax):
    folder = write_dicom(tmp_path / "scan", VALUES, MATRIX, compressor=compressor)
    assert all(b"1.2.840.10008.1.2" + syntax in path.read_bytes() for path in folder.iterdir())
    np.testing.assert_array_equal(load_image(folder).data[0, 0], VALUES)


def test_the_locale_of_the_process_is_kept():
    """What GDCM does: text files without a stated encoding would be read as ASCII afterwards."""
    before = locale.setlocale(locale.LC_ALL)
    with quiet_libraries():
        locale.setlocale(locale.LC_ALL, "C")
    assert locale.setlocale(locale.LC_ALL) == before


def test_itk_places_the_series_where_we_do(folder):
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    theirs = sitk.ReadImage(names)
    place = theirs.TransformIndexToPhysicalPoint((3, 5, 2))
    ours = matrix_of(load_grid(folder)) @ (3, 5, 2, 1)
    np.testing.assert_allclose(ours[:3] * (-1, -1, 1), place, atol=1e-4)


def test_several_series_are_listed_and_one_can_be_named(folder):
    write_dicom(folder, VALUES[:, :, :5] + 1, MATRIX, series="2")
    listed = f"{UIDS}.2.1 \\(scan 1, 7 files\\); .*{UIDS}.2.2 \\(scan 2, 5 files\\)"
    refused(folder, f"must be one DICOM series, got .*{listed}")
    image = load_image(f"{folder}#{UIDS}.2.2")
    np.testing.assert_array_equal(image.data[0, 0], VALUES[:, :, :5] + 1)
    refused(f"{folder}#{UIDS}.9", f"must be one DICOM series, got .*#{UIDS}.9; series: ")


def test_values_are_rescaled_by_each_slice(tmp_path):
    even = VALUES // 4 * 4
    folder = write_dicom(
        tmp_path / "scan", even, MATRIX, t0028_1053=lambda k: "2.00", t0028_1052=lambda k: "0"
    )
    np.testing.assert_array_equal(load_image(folder).data[0, 0], even)
    fourth = folder / "1-0003.dcm"
    content = bytearray(fourth.read_bytes())
    at = content.index(b"\x28\x00\x53\x10") + 8
    assert content[at : at + 2] == b"2 "
    content[at : at + 2] = b".3"
    fourth.write_bytes(content)
    image, expected = load_image(folder), even.astype(np.float32)
    expected[..., 3] *= 0.3 / 2
    np.testing.assert_allclose(image.data[0, 0], expected, rtol=1e-5)


def test_a_tilted_gantry_keeps_its_shear(tmp_path):
    position = lambda k: f"{-10 + 0.0}\\{20 + 0.8 * k}\\{30 + 3 * k}"  # noqa: E731
    folder = write_dicom(tmp_path / "scan", VALUES, np.diag([-1.5, -1.25, 3, 1]), t0020_0032=position)
    np.testing.assert_allclose(
        matrix_of(load_grid(folder)),
        [[-1.5, 0, 0, 10], [0, -1.25, -0.8, -20], [0, 0, 3, 30], [0, 0, 0, 1]],
        atol=1e-6,
    )


PLACES = {
    "missing slice": (
        lambda k: f"0\\0\\{3 * k + 3 * (k > 3)}",
        "evenly spaced, got gaps of 3.00 to 6.00 mm",
    ),
    "time series": (
        lambda k: f"0\\0\\{3 * (k // 2)}",
        "at different places, got several at one place",
    ),
}


@pytest.mark.parametrize("case", PLACES)
def test_slices_that_are_no_volume_are_refused(tmp_path, case):
    position, message = PLACES[case]
    refused(write_dicom(tmp_path / "scan", VALUES, MATRIX, t0020_0032=position), message)


def test_slices_of_other_sizes_or_directions_are_refused(tmp_path):
    other = np.array([[0, 0, 3.0, 0], [-1.5, 0, 0, 0], [0, -1.25, 0, 0], [0, 0, 0, 1]])
    folder = write_dicom(
        tmp_path / "turned",
        VALUES,
        MATRIX,
        t0020_0037=lambda k: "0\\1\\0\\0\\0\\-1" if k == 3 else "1\\0\\0\\0\\1\\0",
    )
    refused(folder, "must be parallel, got another orientation in")
    folder = write_dicom(tmp_path / "sizes", VALUES, MATRIX)
    write_dicom(folder, VALUES[:5, :5, :2], other, t0020_000e=lambda k: f"{UIDS}.2.1", series="3")
    refused(folder, "must be of one size, got others in")


def test_one_slice_is_no_volume(folder):
    path = next(iter(sorted(folder.iterdir())))
    refused(path, "must be the folder of a series, got one slice of it")
    for other in sorted(folder.iterdir())[1:]:
        other.unlink()
    refused(folder, "must have two slices or more, got one")


@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_truncated_slice_is_one_line(folder, capfd, part):
    path = sorted(folder.iterdir())[3]
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    for read in (load_image, load_reference):
        with pytest.raises(PatchMorphError, match=r"DICOM|readable") as error:
            read(folder)
        assert "\n" not in str(error.value)
    assert capfd.readouterr().err == ""


def test_many_series_are_listed_in_part(tmp_path):
    for k in range(14):
        write_dicom(tmp_path, VALUES[:4, :4, :2], MATRIX, series=f"{k + 10}")
    with pytest.raises(PatchMorphError, match=r"must be one DICOM series, got .*; 2 more$") as error:
        load_image(tmp_path)
    assert str(error.value).count("scan") == 12


def test_the_frames_of_one_file_are_a_volume_with_a_doubt(tmp_path):
    path = tmp_path / "frames.dcm"
    sitk.WriteImage(itk_image(VALUES.astype(np.uint16), MATRIX), str(path))
    for name in ("frames.dcm", "frames"):  # the content decides
        image = load_image(path.rename(tmp_path / name))
        np.testing.assert_array_equal(image.data[0, 0], VALUES)
        (doubt,) = image.doubts
        assert "the frames were taken as one stack" in doubt
        path = tmp_path / name


def test_a_folder_of_anything_else_is_one_line(tmp_path):
    refused(tmp_path, "must be an existing file, or a folder of TIFF files or of a DICOM series")
    (tmp_path / "notes.txt").write_text("no image")
    refused(tmp_path, "must be an existing file, or a folder of TIFF files or of a DICOM series")
