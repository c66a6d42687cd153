"""The same map in whatever format an image comes, and results in whatever format is named."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
import torch
from estimators import NO_SEARCH, TRUST
from foreign_images import (
    itk_image,
    write_dicom,
    write_imagej,
    write_itk,
    write_nibabel,
    write_pages,
    write_stack,
)

import patchmorph
from patchmorph.io.grids import matrix_of
from patchmorph.io.images import load_image

MAX_DIFFERENCE_MM = 1e-3
"""Headers round the affine, to float32 or to decimal numbers."""
LETTERS = ("--fixed-orientation", "ipl", "--moving-orientation", "PSR")
"""The sides on which slices, rows and columns of the fixed (RAS) and the moving image (LIA) begin."""


def sizes(matrix):
    return tuple(np.linalg.norm(matrix[:3, :3], axis=0).tolist())


def stated(matrix) -> str:
    return ",".join(f"{size:.9g}" for size in sizes(matrix)[::-1])


FILES = {
    "NIfTI": lambda path, array, matrix: write_nibabel(path.with_suffix(".nii"), array, matrix),
    "MGZ": lambda path, array, matrix: write_nibabel(path.with_suffix(".mgz"), array, matrix),
    "NRRD": lambda path, array, matrix: write_itk(path.with_suffix(".nrrd"), array, matrix, True),
    "NHDR": lambda path, array, matrix: write_itk(path.with_suffix(".nhdr"), array, matrix),
    "MHA": lambda path, array, matrix: write_itk(path.with_suffix(".mha"), array, matrix, True),
    "MHD": lambda path, array, matrix: write_itk(path.with_suffix(".mhd"), array, matrix),
    "DICOM": write_dicom,
    "ImageJ": lambda path, array, matrix: write_imagej(
        path.with_suffix(".tif"), array.astype(np.uint16), sizes(matrix)
    ),
    "TIFF": lambda path, array, matrix: write_pages(path.with_suffix(".tif"), array),
    "stack": lambda path, array, matrix: write_stack(path, array),
}
OBJECTS = {
    "nibabel": nibabel.Nifti1Image,
    "SimpleITK": itk_image,
    "numpy": lambda array, matrix: (array, matrix),
    "torch": lambda array, matrix: (torch.from_numpy(array), torch.from_numpy(matrix)),
}


@pytest.fixture(scope="module")
def pair(files):
    """The pair as whole numbers, which every format holds, with the centres at the origin, as a TIFF lies."""
    images = {}
    for name in ("fixed", "moving"):
        image = load_image(getattr(files, name))
        array = (image.numpy() * 900).clip(0, 900).astype(np.int16)
        matrix = matrix_of(image.grid).copy()
        matrix[:3, 3] = -matrix[:3, :3] @ ((np.array(array.shape) - 1) / 2)
        images[name] = (array, matrix)
    return images


def found_in_python(files, pair, make):
    given = [make(*pair[name]) for name in ("fixed", "moving")]
    options = {"trust": TRUST, "initial_transform": "centers"}
    return patchmorph.register(*given, model=files.model, **options).transform


@pytest.fixture(scope="module")
def reference(files, pair):
    """The map of the images that nibabel holds."""
    return found_in_python(files, pair, OBJECTS["nibabel"])


def distance_mm(first, second, files) -> float:
    return float((first(files.points) - second(files.points)).norm(dim=-1).max())


@pytest.mark.parametrize("form", FILES)
def test_the_command_finds_the_same_map(run, files, pair, reference, tmp_path, form):
    paths = [FILES[form](tmp_path / name, *image) for name, image in pair.items()]
    options = ["--model", files.model, *NO_SEARCH, "-o", tmp_path / "out", "--save", "transform,summary"]
    if form in ("ImageJ", "TIFF", "stack"):
        options += LETTERS
    if form in ("TIFF", "stack"):
        options += [
            "--fixed-spacing",
            stated(pair["fixed"][1]),
            "--moving-spacing",
            stated(pair["moving"][1]),
        ]
    status, _, error = run("register", *paths, *options)
    assert status == 0, error
    found = patchmorph.load_transform(tmp_path / "out" / "transform.safetensors")
    assert distance_mm(found, reference, files) <= MAX_DIFFERENCE_MM


@pytest.mark.parametrize("form", ["DICOM", "stack"])
def test_the_report_of_a_folder_is_rendered_again(run, files, pair, tmp_path, form):
    """What was stated stands in the summary."""
    paths = [FILES[form](tmp_path / name, *image) for name, image in pair.items()]
    options = ["--model", files.model, *NO_SEARCH, "-o", tmp_path / "out"]
    if form == "stack":
        options += [*LETTERS, "--fixed-spacing", "0.33mm", "--moving-spacing", "330um,330um,330um"]
    status, _, error = run("register", *paths, *options)
    assert status == 0, error
    (tmp_path / "out" / "report.html").unlink()
    status, _, error = run("report", tmp_path / "out")
    assert status == 0, error
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("form", OBJECTS)
def test_python_finds_the_same_map(files, pair, reference, form):
    found = found_in_python(files, pair, OBJECTS[form])
    assert distance_mm(found, reference, files) <= MAX_DIFFERENCE_MM


def test_the_map_moves_the_image(files, pair, reference):
    """Otherwise all maps would agree."""
    assert float((reference(files.points) - files.points).norm(dim=-1).mean()) > 0.3


@pytest.fixture(scope="module")
def affine(tmp_path_factory):
    path = tmp_path_factory.mktemp("affine") / "affine.txt"
    sitk.WriteTransform(sitk.AffineTransform(3), str(path))
    return path


@pytest.mark.parametrize("ending", [".nii.gz", ".mgz", ".nrrd", ".nhdr", ".mha", ".mhd", ".tif"])
def test_results_have_the_format_of_their_name(run, files, affine, tmp_path, ending):
    out = tmp_path / f"warped{ending}"
    status, _, error = run(
        "apply", affine, files.moving, "--reference", files.moving, "-o", out, "--from", "itk"
    )
    assert status == 0, error
    if ending == ".tif":
        with tifffile.TiffFile(out) as file:
            assert file.is_imagej
        read = tifffile.imread(out).T
    elif ending in (".nii.gz", ".mgz"):
        read = nibabel.load(out).get_fdata()
    else:
        read = sitk.GetArrayFromImage(sitk.ReadImage(str(out))).T
    expected = load_image(files.moving).numpy()
    np.testing.assert_allclose(read, expected, atol=1e-4)
    jacobian = tmp_path / f"jacobian{ending}"
    status, _, error = run("jacobian", affine, "--reference", files.fixed, "-o", jacobian, "--from", "itk")
    assert status == 0, error
    missed = tmp_path / f"missed{ending}"
    options = ("--from", "itk", "--moving", files.moving, "--missed", missed)
    status, _, error = run("invert", affine, "-o", tmp_path / "inverse.txt", *options)
    assert status == 0, error
    assert jacobian.is_file()
    assert missed.is_file()


def test_apply_takes_sizes_and_sides_for_each_image(run, pair, affine, tmp_path):
    """The same TIFF as reference and image, with other sides stated for one of them: it is turned."""
    array, _ = pair["fixed"]
    path = write_pages(tmp_path / "brain.tif", array)
    fixed = ("--fixed-orientation", "ipl", "--fixed-spacing", "1")
    for moving, expected in (("ipl", array), ("ipr", array[::-1]), ("spl", array[:, :, ::-1])):
        options = (*fixed, "--moving-orientation", moving, "--moving-spacing", "1mm", "--from", "itk")
        out = tmp_path / f"{moving}.nii"
        status, text, error = run("apply", affine, path, "--reference", path, "-o", out, *options)
        assert status == 0, error
        assert "its axes were taken as RAS, as stated" in text
        np.testing.assert_allclose(nibabel.load(out).get_fdata(), expected, atol=1)


MISTAKES = {
    "nothing": ((), "voxel sizes must be stated (--fixed-spacing"),
    "no sides": (("--fixed-spacing", "0.02"), "orientation must be stated (--fixed-orientation"),
    "sides": (("--fixed-orientation", "abc"), "orientation must be one letter each"),
    "sizes": (("--fixed-spacing", "1,2"), "spacing must be one or three lengths in mm"),
    "unit": (("--fixed-spacing", "20 parsec"), "spacing must be one or three lengths in mm"),
    "zero": (("--fixed-spacing", "0"), "spacing must be one or three lengths above 0"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line(run, files, pair, tmp_path, case):
    options, message = MISTAKES[case]
    path = write_pages(tmp_path / "brain.tif", pair["fixed"][0])
    status, _, error = run("register", path, files.moving, "-o", tmp_path / "out", *options)
    assert status == 2
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_tiff_says_what_it_lacks(run, files, affine, tmp_path):
    for ending, lacking in ((".tif", " (TIFF: voxel sizes, but no orientation and no origin)"), (".nii", "")):
        out = tmp_path / f"warped{ending}"
        status, text, _ = run("apply", affine, files.moving, "--reference", files.moving, "-o", out)
        assert status == 0
        assert f"wrote {out}{lacking}\n" in text


def test_points_are_voxels_of_a_tiff_whose_place_is_stated(run, pair, affine, tmp_path):
    """Columns, rows, slices; the centre is the origin."""
    array, _ = pair["fixed"]
    path = write_pages(tmp_path / "brain.tif", array)
    (tmp_path / "cells.csv").write_text("x,y,z\n0,0,0\n3,1,2\n")
    frame = (
        "--frame",
        path,
        "--output-frame",
        "ras",
        "--frame-orientation",
        "psl",
        "--frame-spacing",
        "3,2,1",
    )
    out = tmp_path / "mapped.csv"
    status, _, error = run("apply-points", affine, tmp_path / "cells.csv", "-o", out, *frame)
    assert status == 0, error
    first, second = np.loadtxt(out, delimiter=",", skiprows=1)
    columns, rows, slices = (count - 1 for count in array.shape)
    np.testing.assert_allclose(first, (-columns / 2, -3 * slices / 2, 2 * rows / 2), atol=1e-3)
    np.testing.assert_allclose(second - first, (3, 6, -2), atol=1e-3)
