"""Units, codes and forms of headers, and files that state no orientation."""

import struct

import nibabel
import numpy as np
import pytest
import torch
from niftis import METRE, MICRON, MM, edit_header, write_nifti
from synthetic import AFFINES, grid_around, oblique

from patchmorph.errors import PatchMorphError
from patchmorph.images.intensity import Window
from patchmorph.io.frames import Frames
from patchmorph.io.grids import GridPair, matrix_of
from patchmorph.io.images import load_grid, load_image, load_reference, space_code
from patchmorph.io.placement import world_matrix
from patchmorph.io.points import Frame
from patchmorph.io.stated import parse_orientation
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.io.volumes import open_volume
from patchmorph.transforms.base import AffineTransform

SHAPE = (5, 6, 7)
VALUES = np.arange(5 * 6 * 7, dtype=np.int16).reshape(SHAPE)
MM_PER_UNIT = {METRE: 1000.0, MM: 1.0, MICRON: 0.001}
FORMS = {"both": (1, 1), "sform": (4, 0), "qform": (0, 2)}


def affine(linear, center=(10, -20, 30)) -> np.ndarray:
    return matrix_of(grid_around(SHAPE, linear, center))


def in_unit(matrix, unit) -> np.ndarray:
    return np.diag([1 / MM_PER_UNIT[unit]] * 3 + [1]) @ matrix


@pytest.mark.parametrize("forms", FORMS)
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("unit", MM_PER_UNIT)
def test_lengths_of_any_unit_become_mm(tmp_path, linear, unit, version, forms):
    expected = affine(linear * 0.8)
    path = tmp_path / "image.nii.gz"
    write_nifti(path, VALUES, in_unit(expected, unit), *FORMS[forms], version=version, xyzt_units=unit)
    image, reference = load_image(path), load_reference(path)
    matrices = [image.grid, load_grid(path), reference.grid, Frames(path).grid]
    for found in [
        *map(matrix_of, matrices),
        world_matrix(open_volume(path)),
        Frame.named(str(path)).to_world,
    ]:
        np.testing.assert_allclose(found, expected, atol=1e-4)  # quaternions in float32
    name = {METRE: "metre", MICRON: "micron"}.get(unit)
    notes = () if name is None else (f"{path}: lengths in {name} were converted to mm",)
    assert image.notes == reference.notes == notes
    assert image.doubts == reference.doubts == ()


@pytest.mark.parametrize("code", [0, 4, 5, 6, 7, 16 | 8, 8 | MM, 48])
def test_unknown_units_are_mm_and_units_of_time_are_none_of_space(tmp_path, linear, code):
    path = edit_header(write_nifti(tmp_path / "image.nii", VALUES, affine(linear)), xyzt_units=code)
    image = load_image(path)
    np.testing.assert_allclose(matrix_of(image.grid), affine(linear), atol=1e-5)
    assert image.notes == ()
    edit_header(path, xyzt_units=(code & ~7) | MICRON)
    assert load_grid(path).spacing_mm.max() < 0.003


@pytest.mark.parametrize("tool", ["itk", "fsl"])
@pytest.mark.parametrize("unit", [METRE, MICRON])
def test_the_grid_of_a_field_is_in_mm(tmp_path, tool, unit):
    """Its vectors are in mm, whatever the unit of its grid."""
    grid = grid_around(SHAPE, AFFINES["LAS"] * 4)
    pair, path = GridPair(grid, grid), tmp_path / "field.nii"
    shift = AffineTransform.translation(torch.tensor([[3.0, -2, 1]]))
    save_transform(shift, path, tool, pair)
    volume, scaled = nibabel.load(path), in_unit(matrix_of(grid), unit)
    for set_form in (volume.set_sform, volume.set_qform):
        set_form(scaled, code=1)
    volume.header["xyzt_units"] = unit
    nibabel.save(volume, tmp_path / "scaled.nii")
    found = load_transform(tmp_path / "scaled.nii", tool, pair)
    points = grid.points_world()
    torch.testing.assert_close(found(points), shift(points), atol=1e-3, rtol=0)


def centered(letters: str, sizes) -> np.ndarray:
    """Its axes run in the directions of ``letters``; the middle of the array is the origin."""
    directions = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    matrix = np.zeros((4, 4))
    matrix[3, 3] = 1
    for column, letter in enumerate(letters):
        axis, sign = directions[letter]
        matrix[axis, column] = sign * sizes[column]
    matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return matrix


def unoriented(folder, kind: str):
    """Files that hold voxel sizes of 2, 3 and 1.5 mm and no orientation."""
    sizes = np.array([2.0, 3, 1.5])
    if kind == "analyze":
        image = nibabel.AnalyzeImage(VALUES, None)
        image.header.set_zooms(sizes)
        nibabel.save(image, folder / "image.img")
        return folder / "image.img"
    version = {"nifti1": 1, "nifti2": 2}[kind]
    return write_nifti(folder / "image.nii.gz", VALUES, np.diag([*sizes, 1]), 0, 0, version=version)


@pytest.mark.parametrize("kind", ["nifti1", "nifti2", "analyze"])
def test_a_file_without_codes_is_las_by_convention_and_that_is_a_doubt(tmp_path, kind):
    path = unoriented(tmp_path, kind)
    image = load_image(path)
    np.testing.assert_allclose(matrix_of(image.grid), centered("LAS", (2, 3, 1.5)), atol=1e-6)
    (doubt,) = image.doubts
    assert doubt.startswith(f"{path}: the orientation is unknown, since ")
    assert "taken as LAS (--assume-orientation states others)" in doubt
    assert load_reference(path).doubts == Frames(path).place.doubts == image.doubts
    assert image.notes == ()
    assert space_code(path) == 1


@pytest.mark.parametrize("kind", ["nifti1", "analyze"])
@pytest.mark.parametrize("letters", ["RAS", "LAS", "LPS", "PIR", "ASL", "ipl"])
def test_a_stated_orientation_is_taken(tmp_path, kind, letters):
    path = unoriented(tmp_path, kind)
    image = load_image(path, letters)
    np.testing.assert_allclose(matrix_of(image.grid), centered(letters.upper(), (2, 3, 1.5)), atol=1e-6)
    assert image.doubts == ()
    (note,) = image.notes
    assert f"its axes were taken as {letters.upper()}, as stated" in note
    for grid in (load_grid(path, letters), load_reference(path, letters).grid, Frames(path, letters).grid):
        np.testing.assert_array_equal(matrix_of(grid), matrix_of(image.grid))


def test_sizes_of_a_stated_orientation_are_in_the_files_unit(tmp_path):
    path = write_nifti(tmp_path / "image.nii", VALUES, np.diag([25.0, 50, 10, 1]), 0, 0, xyzt_units=MICRON)
    np.testing.assert_allclose(
        matrix_of(load_grid(path, "SPR")), centered("SPR", (0.025, 0.05, 0.01)), atol=1e-7
    )


@pytest.mark.parametrize("forms", FORMS)
def test_a_stated_orientation_changes_no_file_with_codes(tmp_path, linear, forms):
    path = write_nifti(tmp_path / "image.nii.gz", VALUES, affine(linear), *FORMS[forms])
    image = load_image(path, "PIR")
    np.testing.assert_allclose(matrix_of(image.grid), affine(linear), atol=1e-4)
    assert image.notes == image.doubts == ()


def test_an_mgh_file_may_say_that_its_orientation_is_not_valid(tmp_path):
    path = tmp_path / "image.mgh"
    nibabel.save(nibabel.MGHImage(VALUES, affine(AFFINES["oblique"] * 2)), path)
    image = load_image(path)
    assert image.doubts == ()
    np.testing.assert_allclose(matrix_of(image.grid), affine(AFFINES["oblique"] * 2), atol=1e-4)
    content = bytearray(path.read_bytes())
    struct.pack_into(">h", content, 28, 0)
    path.write_bytes(content)
    (doubt,) = load_image(path).doubts
    assert "its flag of a valid orientation is 0; its axes were taken as LIA" in doubt
    expected = np.array(
        [[-1, 0, 0, 2.5], [0, 0, 1, -3.5], [0, -1, 0, 3], [0, 0, 0, 1]]
    )  # FreeSurfer's default
    np.testing.assert_allclose(matrix_of(load_grid(path)), expected)
    stated = load_image(path, "RAS")
    expected = np.array([[1, 0, 0, -2.5], [0, 1, 0, -3], [0, 0, 1, -3.5], [0, 0, 0, 1]])
    np.testing.assert_allclose(matrix_of(stated.grid), expected)
    assert stated.doubts == ()


def test_spm_keeps_an_orientation_beside_an_analyze_file(tmp_path):
    matrix = affine(AFFINES["oblique"] * 2)
    nibabel.save(nibabel.Spm99AnalyzeImage(VALUES, matrix), tmp_path / "image.img")
    image = load_image(tmp_path / "image.img", "PIR")
    np.testing.assert_allclose(matrix_of(image.grid), matrix, atol=1e-5)
    assert image.doubts == ()
    (tmp_path / "image.mat").unlink()
    assert "Analyze files hold none" in load_image(tmp_path / "image.img").doubts[0]


def test_there_are_48_orientations():
    letters = [a + b + c for a in "LRAPIS" for b in "LRAPIS" for c in "LRAPIS"]
    good = [name for name in letters if all(len(set(name) & set(pair)) == 1 for pair in ("LR", "AP", "IS"))]
    assert len({parse_orientation(name) for name in good}) == 48
    for name in {*letters, "", "RA", "RASR", "XYZ", "R S"} - set(good):
        with pytest.raises(PatchMorphError, match=f"must be one letter each of L or R, .* got {name}$"):
            parse_orientation(name)


@pytest.mark.parametrize(("sform", "qform"), [(1, 1), (2, 1), (4, 1), (3, 2)])
@pytest.mark.parametrize("change", ["shift", "turn", "size"])
def test_forms_that_differ_are_noted_with_their_distance(tmp_path, linear, sform, qform, change):
    first = affine(linear * 2)
    other = {
        "shift": affine(linear * 2, (10.5, -20, 30)),
        "turn": affine(oblique(12) @ linear * 2),
        "size": affine(linear * 2.1),
    }[change]
    path = write_nifti(tmp_path / "image.nii.gz", VALUES, first, sform, qform, other)
    image = load_image(path)
    corners = np.array(np.meshgrid((0, 4), (0, 5), (0, 6))).reshape(3, -1)
    distance = np.linalg.norm((first - other)[:3, :3] @ corners + (first - other)[:3, 3:], axis=0).max()
    assert distance > 0.4
    (note,) = image.notes
    start = f"{path}: sform (code {sform}) and qform (code {qform}) differ by up to "
    assert note.startswith(start)
    assert note.endswith(" mm; the sform was used")
    assert float(note.removeprefix(start).split()[0]) == pytest.approx(distance, abs=0.02)
    np.testing.assert_allclose(matrix_of(image.grid), first, atol=1e-4)
    assert image.doubts == ()
    assert space_code(path) == load_reference(path).code == sform


@pytest.mark.parametrize("unit", MM_PER_UNIT)
def test_the_distance_is_in_mm(tmp_path, unit):
    first, other = (in_unit(affine(np.eye(3), center), unit) for center in ((0, 0, 0), (0, 3, 4)))
    path = write_nifti(tmp_path / "image.nii", VALUES, first, 2, 1, other, xyzt_units=unit)
    assert "differ by up to 5.00 mm" in load_image(path).notes[-1]


HEAD = np.broadcast_to(np.zeros((), np.uint8), (182, 218, 182))


def of_a_head(linear) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = 90.1, -126.3, -72.7
    return matrix


@pytest.mark.parametrize("degrees", [*np.linspace(0, 180, 9), 179.94, 179.97, 180.03])
@pytest.mark.parametrize("orientation", AFFINES)
def test_forms_that_differ_by_rounding_are_not_noted(tmp_path, orientation, degrees):
    """A qform is float32: near half turns its rounding moves the corners of a head by 0.1 mm."""
    matrix = of_a_head(oblique(degrees) @ AFFINES[orientation])
    image = nibabel.Nifti1Image(HEAD, None)
    image.header.set_qform(matrix, 1)
    for stored in (matrix, image.header.get_qform()):  # by the tool's own matrix, or by the rounded one
        path = write_nifti(tmp_path / "image.nii", HEAD, stored, 1, 1, matrix)
        assert load_reference(path).notes == ()


@pytest.mark.parametrize("orientation", ["LAS", "LPS", "RAS", "oblique"])
@pytest.mark.parametrize("change", ["shift", "turn"])
def test_less_than_a_voxel_is_noted_in_a_head_of_any_orientation(tmp_path, orientation, change):
    """Rounding turns a qform and does not shift it, so a small shift counts even near half turns."""
    matrix = of_a_head(AFFINES[orientation])
    other = of_a_head(oblique(0.15 if change == "turn" else 0) @ AFFINES[orientation])
    other[0, 3] += 0.1 if change == "shift" else 0
    path = write_nifti(tmp_path / "image.nii", HEAD, matrix, 2, 1, other)
    assert "differ by up to " in load_reference(path).notes[0]


def test_a_shear_that_a_qform_lacks_is_noted(tmp_path):
    sheared = affine(np.array([[2.0, 0.3, 0], [0, 2, 0], [0, 0, 2]]))
    path = write_nifti(tmp_path / "image.nii", VALUES, sheared, 2, 2)
    assert "differ by up to" in load_image(path).notes[0]


@pytest.mark.parametrize("fields", [{"quatern_b": 5.0}, {"quatern_b": np.nan}, {"qoffset_x": np.inf}])
def test_a_qform_that_is_none_is_noted(tmp_path, fields):
    path = edit_header(write_nifti(tmp_path / "image.nii", VALUES, affine(np.eye(3))), **fields)
    image = load_image(path)
    assert image.notes == (f"{path}: its qform is no rotation; the sform was used",)
    np.testing.assert_allclose(matrix_of(image.grid), affine(np.eye(3)), atol=1e-5)


def test_notes_and_doubts_go_with_the_image(tmp_path):
    image = load_image(unoriented(tmp_path, "nifti1"), None)
    noted = load_image(unoriented(tmp_path, "nifti1"), "RAS")
    view = Window(0.0, 1.0)
    for copy in (
        image.to("cpu"),
        image.mapped(view),
        image.mapped(view).mapped(view),
        image.to("cpu").mapped(view),
    ):
        assert copy.doubts == image.doubts != ()
    for copy in (noted.to("cpu"), noted.mapped(view), noted.mapped(view).with_truncated_faces(((0, 0),))):
        assert copy.notes == noted.notes != ()
