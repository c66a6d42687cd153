"""Commands on files that do not say whose they are, that mark voxels as not mapped, or that are no maps."""

import re

import nibabel
import numpy as np
import pytest
import torch
from nibabel import gifti
from synthetic import AFFINES, grid_around, rotation, smooth_image

from patchmorph.images.volume import Image
from patchmorph.io.grids import GridPair, matrix_of
from patchmorph.io.images import load_image, save_image
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.displacement import DisplacementField

GRID = grid_around((24, 26, 22), AFFINES["LAS"] * 7)
SHIFT = torch.tensor([10.0, -6, 4])
HOLE = (slice(8, 12), slice(10, 13), 9)
IMAGES = ("--reference", "fixed.nii.gz", "--moving", "moving.nii.gz")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """One shift in files of several conventions, between two images."""
    monkeypatch.chdir(tmp_path)
    save_image(smooth_image(GRID), tmp_path / "fixed.nii.gz")
    save_image(
        smooth_image(grid_around((26, 24, 25), AFFINES["LIA"] * 7, (3, 2, 1))), tmp_path / "moving.nii.gz"
    )
    save_transform(AffineTransform.translation(SHIFT[None]), tmp_path / "greedy.mat", "greedy")
    shift = np.broadcast_to(SHIFT.numpy(), (*GRID.shape, 3)).astype(np.float32)
    positions = GRID.points_world()[0].numpy() + shift
    positions[HOLE] = np.nan
    for name, values in (("ras", shift), ("positions", positions)):
        nibabel.save(nibabel.Nifti1Image(values, matrix_of(GRID)), tmp_path / f"{name}.nii.gz")
    (tmp_path / "points.csv").write_text("x,y,z\n10,20,-5\n" + ",".join(map(str, hole_mm())) + "\n")
    return tmp_path


def hole_mm() -> list[float]:
    return GRID.points_world()[0, 9, 11, 9].tolist()


def refused(result, *words):
    code, _, error = result
    assert code == 2
    assert error.startswith("patchmorph: ")
    assert error.count("\n") == 1
    assert all(word in error for word in words), error


COMMANDS = {
    "apply": "apply FILE moving.nii.gz --reference fixed.nii.gz -o out.nii.gz",
    "apply-points": "apply-points FILE points.csv -o out.csv",
    "compose": "compose FILE -o out.safetensors",
    "invert": "invert FILE -o out.safetensors",
    "convert": "convert FILE -o out.safetensors",
    "jacobian": "jacobian FILE --reference fixed.nii.gz -o out.nii.gz",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("file", "tool"), [("greedy.mat", "greedy"), ("ras.nii.gz", "dipy")])
def test_every_command_asks_for_a_format_that_a_file_does_not_state(run, folder, command, file, tool):
    arguments = COMMANDS[command].replace("FILE", file).split()
    refused(
        run(*arguments), "must be named (--from)", file, f"; {tool} or " if tool == "greedy" else "or dipy ("
    )
    assert not list(folder.glob("out*"))
    assert run(*arguments, "--from", tool)[0] == 0


def test_an_image_is_pulled_through_a_file_of_the_named_format(run, folder):
    moving = load_image(folder / "moving.nii.gz")
    points = GRID.points_world() + SHIFT
    expected = moving.sample(points, 7.0)[0, 0].numpy()
    for file, tool in (("greedy.mat", "greedy"), ("ras.nii.gz", "ras")):
        options = ("--reference", "fixed.nii.gz", "-o", "out.nii.gz", "--from", tool)
        assert run("apply", file, "moving.nii.gz", *options)[0] == 0
        np.testing.assert_allclose(nibabel.load(folder / "out.nii.gz").get_fdata(), expected, atol=1e-3)


@pytest.mark.parametrize(
    "then", [("--from", "greedy", "--from", "ras"), ("--from", "greedy", "--from", "dipy")]
)
def test_each_file_of_a_list_may_have_its_own_format(run, folder, then):
    assert run("compose", "greedy.mat", "ras.nii.gz", "-o", "out.safetensors", *then)[0] == 0
    point = torch.tensor([[[10.0, 20, -5]]])
    torch.testing.assert_close(
        load_transform(folder / "out.safetensors")(point), point + 2 * SHIFT, atol=1e-3, rtol=0
    )
    assert (
        run("apply-points", "greedy.mat", "points.csv", "-o", "out.csv", "--then", "ras.nii.gz", *then)[0]
        == 0
    )
    found = np.loadtxt(folder / "out.csv", delimiter=",", skiprows=1)[0]
    np.testing.assert_allclose(found, [30, 8, 3], atol=1e-4)


def test_one_format_counts_for_all_files_and_auto_for_those_that_state_theirs(run, folder):
    save_transform(rotation(), folder / "turn.tfm")
    for formats in (("--from", "auto", "--from", "greedy"), ("--from", "itk", "--from", "c3d")):
        assert run("compose", "turn.tfm", "greedy.mat", "-o", "out.tfm", *formats)[0] == 0
    assert run("compose", "greedy.mat", "greedy.mat", "-o", "out.tfm", "--from", "greedy")[0] == 0
    refused(
        run(
            "compose",
            "greedy.mat",
            "greedy.mat",
            "greedy.mat",
            "-o",
            "x.tfm",
            "--from",
            "greedy",
            "--from",
            "fsl",
        ),
        "--from must be given once or 3 times, got 2 times",
    )
    refused(
        run("convert", "greedy.mat", "-o", "x.tfm", "--from", "elastix"), "tool must be one of", "got elastix"
    )


def test_results_in_a_format_of_few_numbers_are_read_back_as_such(run, folder):
    """`invert` measures what the file loses: it must read a matrix as the tool's that it was written for."""
    save_transform(DisplacementField(torch.zeros(1, 3, *GRID.shape), GRID), folder / "field.safetensors")
    code, out, _ = run(
        "invert", "greedy.mat", "-o", "back.txt", "--to", "mrtrix", "--from", "greedy", *IMAGES
    )
    assert code == 0
    assert "off on average" not in out
    torch.testing.assert_close(
        load_transform(folder / "back.txt", "mrtrix").matrix[0, :3, 3], -SHIFT.double(), atol=1e-9, rtol=0
    )


def test_voxels_that_are_not_mapped_are_background_and_counted(run, folder):
    options = ("--reference", "fixed.nii.gz", "-o", "out.nii.gz", "--background", "-3", "--from", "mrtrix")
    code, out, _ = run("apply", "positions.nii.gz", "moving.nii.gz", *options)
    assert code == 0
    assert "positions.nii.gz does not map 12 voxels of its grid" in out
    warped = nibabel.load(folder / "out.nii.gz").get_fdata()
    assert (warped[HOLE] == -3).all()
    expected = load_image(folder / "moving.nii.gz").sample(GRID.points_world() + SHIFT, 7.0)[0, 0].numpy()
    inner = (slice(8, -8),) * 3  # within the moving image
    kept = np.ones(GRID.shape, bool)
    kept[HOLE] = False
    np.testing.assert_allclose(warped[inner][kept[inner]], expected[inner][kept[inner]], atol=1e-3)


def test_points_that_are_not_mapped_are_nan_and_counted(run, folder):
    code, out, _ = run("apply-points", "positions.nii.gz", "points.csv", "-o", "out.csv", "--from", "mrtrix")
    assert code == 0
    assert "1 points are not mapped: their coordinates are nan" in out
    known, outside = (folder / "out.csv").read_text().splitlines()[1:]
    np.testing.assert_allclose([float(value) for value in known.split(",")], [20, 14, -1], atol=1e-4)
    assert outside == "nan,nan,nan"
    triangle = gifti.GiftiDataArray(np.array([hole_mm()] * 3, np.float32), "NIFTI_INTENT_POINTSET")
    nibabel.save(gifti.GiftiImage(darrays=[triangle]), folder / "in.gii")
    result = run("apply-points", "positions.nii.gz", "in.gii", "-o", "out.gii", "--from", "mrtrix")
    refused(result, "surface must lie where points are mapped, got 3 that are not in in.gii")


def test_the_inverse_tells_points_that_are_not_mapped_from_misses(run, folder):
    options = ("--from", "mrtrix", "--moving", "fixed.nii.gz", "--missed", "missed.nii.gz")
    code, out, _ = run("invert", "positions.nii.gz", "-o", "back.safetensors", *options)
    assert code == 0
    missed = nibabel.load(folder / "missed.nii.gz").get_fdata()
    unmapped = int(np.isnan(missed).sum())
    assert f"{unmapped} of {missed.size} points are not mapped" in out
    assert unmapped > 12
    back = load_transform(folder / "back.safetensors")
    there = torch.tensor([[hole_mm(), [10.0, 20, -5]]]) + SHIFT
    found = back(there)[0]
    assert found[0].isnan().all()
    torch.testing.assert_close(found[1], torch.tensor([10.0, 20, -5]), atol=1e-3, rtol=0)


@pytest.mark.parametrize("log", [(), ("--log",)])
def test_the_jacobian_leaves_out_what_is_not_mapped(run, folder, log):
    options = ("--reference", "fixed.nii.gz", "-o", "out.nii.gz", "--from", "mrtrix", *log)
    code, out, _ = run("jacobian", "positions.nii.gz", *options)
    assert code == 0
    determinant = nibabel.load(folder / "out.nii.gz").get_fdata()
    unmapped = int(np.isnan(determinant).sum())
    assert unmapped >= 12
    assert re.search(rf"voxels that are not mapped\W+{unmapped}\b", out)
    inner = determinant[4:-4, 4:-4, 4:-4]
    np.testing.assert_allclose(inner[~np.isnan(inner)], 0 if log else 1, atol=1e-3)
    assert "nan" not in out


def test_a_jacobian_of_nothing_is_refused(run, folder):
    far = grid_around((2, 2, 2), AFFINES["RAS"], tuple(hole_mm()))
    save_image(Image(torch.zeros(1, 1, 2, 2, 2), far), folder / "far.nii.gz")
    options = ("--reference", "far.nii.gz", "-o", "out.nii.gz", "--from", "mrtrix")
    refused(
        run("jacobian", "positions.nii.gz", *options), "far.nii.gz must lie where the transform maps points"
    )
    assert not (folder / "out.nii.gz").exists()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("fault", ["NaN.h5", "inf.safetensors", "singular.tfm", "far.nii.gz"])
def test_no_command_uses_a_transform_that_can_be_no_map(run, folder, command, fault):
    value = {"NaN.h5": torch.nan, "far.nii.gz": 1e7}.get(fault, torch.inf)
    bad = DisplacementField(torch.zeros(1, 3, *GRID.shape), GRID)
    if fault == "singular.tfm":
        bad = AffineTransform(torch.zeros(1, 4, 4) + torch.diag(torch.tensor([0.0, 0, 0, 1])))
    elif fault == "inf.safetensors":
        bad = AffineTransform(torch.full((1, 4, 4), value))
    else:
        bad.displacement[0, 0, 3, 4, 5] = value
    with np.errstate(all="ignore"):
        save_transform(bad, folder / fault, "itk" if fault.endswith("gz") else None, GridPair(GRID, GRID))
    refused(run(*COMMANDS[command].replace("FILE", fault).split()), "must be", f"in {fault}")
    assert not list(folder.glob("out*"))
