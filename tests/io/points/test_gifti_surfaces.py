"""Coordinate systems of GIFTI point sets are honoured and kept, as is all that is no point."""

import re

import nibabel
import numpy as np
import pytest
from nibabel import gifti

from patchmorph.errors import PatchMorphError
from patchmorph.io.points import Frame, map_points

POINTS = np.array([[1.5, 2, 3], [-10, 20, -5.25], [30, -12, 8]])
MATRIX = np.array([[0.0, 1, 0, 3], [-1, 0, 0, -4], [0, 0, 1, 5], [0, 0, 0, 1]])
CODES = {
    "NIFTI_XFORM_UNKNOWN": 0,
    "NIFTI_XFORM_SCANNER_ANAT": 1,
    "NIFTI_XFORM_TALAIRACH": 3,
    "NIFTI_XFORM_MNI_152": 4,
}
UNKNOWN, SCANNER, TALAIRACH, MNI = CODES


def system(data, transformed, matrix=None):
    return gifti.GiftiCoordSystem(CODES[data], CODES[transformed], np.eye(4) if matrix is None else matrix)


def write(path, points, coordsys=None, dtype=np.float32, encoding="GIFTI_ENCODING_B64GZ", order=None):
    keys = {"datatype": f"NIFTI_TYPE_{np.dtype(dtype).name.upper()}"}
    keys |= {} if order is None else {"ordering": order}
    arrays = [
        gifti.GiftiDataArray(
            points.astype(dtype), "NIFTI_INTENT_POINTSET", encoding=encoding, coordsys=coordsys, **keys
        ),
        gifti.GiftiDataArray(np.array([[0, 1, 2]], np.int32), "NIFTI_INTENT_TRIANGLE", encoding=encoding),
        gifti.GiftiDataArray(np.array([0.5, 1, 2], np.float32), "NIFTI_INTENT_SHAPE", encoding=encoding),
    ]
    meta = gifti.GiftiMetaData({"UserName": "é & <b>"})
    nibabel.save(gifti.GiftiImage(meta=meta, darrays=arrays), path, mode="force")  # float64, too
    return path


def systems(path) -> list[str]:
    """The texts of all coordinate systems of the points, since nibabel keeps only the last."""
    points = path.read_text().partition("</DataArray>")[0]
    found = re.findall(
        r"<CoordinateSystemTransformMatrix>.*?</CoordinateSystemTransformMatrix>", points, re.S
    )
    return [" ".join(re.sub(r"<!\[CDATA\[|\]\]>", "", text).split()) for text in found]


@pytest.mark.parametrize("space", [SCANNER, TALAIRACH, MNI, UNKNOWN])
@pytest.mark.parametrize("transformed", [TALAIRACH, MNI, UNKNOWN])
def test_points_are_in_the_data_space(tmp_path, transform, mapped, space, transformed):
    """A matrix to another space than the scanner's is kept and does not move points."""
    source = write(tmp_path / "in.surf.gii", POINTS, system(space, transformed, MATRIX))
    done = map_points(source, tmp_path / "out.surf.gii", transform)
    stated = {SCANNER: "scanner", UNKNOWN: None}.get(space, space)
    reason = f"by its data space, {stated}" if stated else "by convention; --frame changes it"
    assert str(done) == f"3 points, frame: ras ({reason})"
    points, triangles, shape = nibabel.load(tmp_path / "out.surf.gii").darrays
    np.testing.assert_allclose(points.data, mapped(POINTS), atol=1e-4)
    np.testing.assert_array_equal(triangles.data, [[0, 1, 2]])
    np.testing.assert_array_equal(shape.data, [0.5, 1, 2])
    assert systems(tmp_path / "out.surf.gii") == systems(source)
    assert nibabel.load(tmp_path / "out.surf.gii").meta["UserName"] == "é & <b>"


@pytest.mark.parametrize("space", [UNKNOWN, TALAIRACH, MNI])
def test_a_matrix_to_the_scanner_is_honoured_and_kept(tmp_path, transform, mapped, space):
    own = nibabel.affines.apply_affine(np.linalg.inv(MATRIX), POINTS)
    source = write(tmp_path / "in.surf.gii", own, system(space, SCANNER, MATRIX))
    done = map_points(source, tmp_path / "out.surf.gii", transform)
    assert str(done) == "3 points, frame: its own (by its matrix to scanner RAS)"
    points = nibabel.load(tmp_path / "out.surf.gii").darrays[0]
    found = nibabel.affines.apply_affine(points.coordsys.xform, points.data)
    np.testing.assert_allclose(found, mapped(POINTS), atol=1e-4)
    assert systems(tmp_path / "out.surf.gii") == systems(source)
    map_points(source, tmp_path / "ras.surf.gii", transform, to=Frame.named("ras"))
    points = nibabel.load(tmp_path / "ras.surf.gii").darrays[0]
    np.testing.assert_allclose(points.data, mapped(POINTS), atol=1e-4)
    assert (points.coordsys.dataspace, points.coordsys.xformspace) == (CODES[SCANNER], CODES[SCANNER])
    np.testing.assert_allclose(points.coordsys.xform, np.eye(4), atol=1e-6)


def several(path, points, first, second):
    """A file with two coordinate systems, which nibabel cannot write."""
    write(path, points, system(*first))
    text, other = path.read_text(), write(path.with_name("other.gii"), points, system(*second)).read_text()
    block = re.compile(r"<CoordinateSystemTransformMatrix>.*?</CoordinateSystemTransformMatrix>", re.S)
    one, two = block.search(text), block.search(other)
    assert one
    assert two
    path.write_text(text[: one.end()] + two[0] + text[one.end() :])
    return path


@pytest.mark.parametrize("place", [0, 1])
def test_several_systems_are_all_kept_and_the_scanners_is_honoured(tmp_path, transform, mapped, place):
    own = nibabel.affines.apply_affine(np.linalg.inv(MATRIX), POINTS)
    pair = [(UNKNOWN, SCANNER, MATRIX), (UNKNOWN, TALAIRACH, np.diag([1.1, 0.9, 1.2, 1]))]
    source = several(tmp_path / "in.gii", own, *(pair if place == 0 else pair[::-1]))
    map_points(source, tmp_path / "out.gii", transform)
    assert systems(tmp_path / "out.gii") == systems(source)
    assert len(systems(source)) == 2
    found = nibabel.affines.apply_affine(MATRIX, nibabel.load(tmp_path / "out.gii").darrays[0].data)
    np.testing.assert_allclose(found, mapped(POINTS), atol=1e-4)


def test_a_matrix_to_another_space_leads_there_from_the_same_places(tmp_path, transform, mapped):
    """When the frame of the file changes."""
    own = nibabel.affines.apply_affine(np.linalg.inv(MATRIX), POINTS)
    talairach = np.diag([1.1, 0.9, 1.2, 1])
    source = several(tmp_path / "in.gii", own, (UNKNOWN, SCANNER, MATRIX), (UNKNOWN, TALAIRACH, talairach))
    map_points(source, tmp_path / "out.gii", transform, to=Frame.named("ras"))
    array = nibabel.load(tmp_path / "out.gii").darrays[0]
    assert array.coordsys.xformspace == CODES[TALAIRACH]  # the last one
    np.testing.assert_allclose(array.coordsys.xform, talairach @ np.linalg.inv(MATRIX), atol=1e-6)


@pytest.mark.parametrize(
    "encoding", ["GIFTI_ENCODING_ASCII", "GIFTI_ENCODING_B64BIN", "GIFTI_ENCODING_B64GZ"]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_encodings_are_read_and_the_precision_is_kept(tmp_path, transform, mapped, encoding, dtype, order):
    source = write(tmp_path / "in.gii", POINTS, None, dtype, encoding, order)
    map_points(source, tmp_path / "out.gii", transform)
    array = nibabel.load(tmp_path / "out.gii").darrays[0]
    assert array.data.dtype.itemsize == np.dtype(dtype).itemsize
    np.testing.assert_allclose(array.data, mapped(POINTS), atol=1e-4)


def test_a_frame_that_differs_from_the_files_is_stated(tmp_path, transform, mapped):
    source = write(tmp_path / "in.gii", POINTS * [-1, -1, 1], system(UNKNOWN, UNKNOWN))
    map_points(source, tmp_path / "out.gii", transform, Frame.named("lps"))
    assert "NIFTI_XFORM_SCANNER_ANAT" in systems(tmp_path / "out.gii")[0]
    again = map_points(tmp_path / "out.gii", tmp_path / "back.gii", transform.inverse())
    assert str(again.source) == "its own (by its matrix to scanner RAS)"
    back = nibabel.load(tmp_path / "back.gii").darrays[0]
    np.testing.assert_allclose(back.data * [-1, -1, 1], POINTS, atol=2e-3)


def test_a_surface_that_is_not_mapped_as_a_whole_is_refused(tmp_path, nowhere):
    source = write(tmp_path / "in.gii", POINTS)
    with pytest.raises(
        PatchMorphError, match="surface must lie where points are mapped, got 1 that are not in"
    ):
        map_points(source, tmp_path / "out.gii", nowhere)
    assert not (tmp_path / "out.gii").exists()


def external(text):
    return re.sub("GZipBase64Binary", "ExternalFileBinary", text).replace(
        'ExternalFileName=""', 'ExternalFileName="points.bin"'
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "no surface", "surface must be a GIFTI file"),
        (lambda text: "", "surface must be a GIFTI file"),
        (lambda text: "<a/>", "surface must"),
        (lambda text: text[: len(text) // 2], "surface must be a GIFTI file"),
        (
            lambda text: text.replace("NIFTI_INTENT_POINTSET", "NIFTI_INTENT_VECTOR"),
            "must have points, got none",
        ),
        (lambda text: text.replace('Dim0="3"', 'Dim0="4"', 1), "surface must be a GIFTI file"),
        (lambda text: re.sub("<Data>....", "<Data>", text, count=1), "surface must be a GIFTI file"),
        (external, "surface must"),
    ],
)
def test_broken_surfaces_are_one_clear_line(tmp_path, transform, change, message):
    source = write(tmp_path / "a.gii", POINTS)
    source.write_text(change(source.read_text()))
    with pytest.raises(PatchMorphError, match=message) as error:
        map_points(source, tmp_path / "out.gii", transform)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.diag([1.0, 1, 0, 1]), "must be affine and invertible"),
        (np.full((4, 4), np.nan), "must be affine and invertible"),
        (np.diag([1.0, 1, 1, 2]), "must be affine and invertible"),
    ],
)
def test_impossible_matrices_are_one_clear_line(tmp_path, transform, matrix, message):
    source = write(tmp_path / "a.gii", POINTS, system(UNKNOWN, SCANNER, matrix))
    with pytest.raises(PatchMorphError, match=message):
        map_points(source, tmp_path / "out.gii", transform)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_surfaces_with_points_that_are_not_finite_are_refused(tmp_path, transform, bad):
    source = write(tmp_path / "a.gii", np.where(POINTS == 20, bad, POINTS))
    with pytest.raises(PatchMorphError, match="points must be finite, got 1 that are not"):
        map_points(source, tmp_path / "out.gii", transform)
