"""Commands on transforms, with known answers: two images on different grids, maps that do not commute."""

import re

import nibabel
import numpy as np
import pytest
import torch
from synthetic import AFFINES, grid_around, rotation, smooth_image, smooth_velocity

from patchmorph.images.volume import Image
from patchmorph.io.grids import GridPair
from patchmorph.io.images import load_image, save_image
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.jacobian import jacobian_determinant
from patchmorph.transforms.resample import resample

TURN = rotation(30)
SHIFT = AffineTransform.translation(torch.tensor([[10.0, -20, 5]]))
STRETCH = AffineTransform(torch.diag(torch.tensor([2.0, 1.0, 1.25, 1.0]))[None])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Affine maps and two images; the moving one has another size, spacing, handedness and place."""
    save_transform(TURN, tmp_path / "turn.tfm")
    save_transform(SHIFT, tmp_path / "shift.tfm")
    save_transform(STRETCH, tmp_path / "stretch.tfm")
    fixed = smooth_image(grid_around((30, 34, 28), AFFINES["LAS"] * 6))
    moving = smooth_image(grid_around((24, 40, 32), AFFINES["LIA"] * 5, (6, -3, 9)))
    save_image(fixed, tmp_path / "fixed.nii.gz")
    save_image(moving, tmp_path / "moving.nii.gz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def points():
    return torch.rand(1, 100, 3, generator=torch.Generator().manual_seed(0)) * 80 - 40


def assert_same(found, expected, atol=1e-3):
    torch.testing.assert_close(found(points()), expected(points()), atol=atol, rtol=0)


@pytest.mark.parametrize(("name", "tool"), [("x.mat", "fsl"), ("x.lta", "freesurfer")])
def test_inverses_in_the_frames_of_images_are_of_the_swapped_pair(run, folder, name, tool):
    """The numbers of FSL and FreeSurfer depend on both images, which the inverse exchanges."""
    images = ("--reference", "fixed.nii.gz", "--moving", "moving.nii.gz")
    assert run("invert", "turn.tfm", "-o", name, "--to", tool, *images)[0] == 0
    fixed, moving = (load_image(folder / f"{image}.nii.gz").grid for image in ("fixed", "moving"))
    assert_same(load_transform(folder / name, tool, GridPair(moving, fixed)), TURN.inverse())


def test_an_inverse_in_a_field_stands_on_the_moving_grid(run, folder):
    flow = smooth_velocity(grid_around((20, 20, 20), AFFINES["RAS"] * 9), 3.0)
    save_transform(TURN @ flow, folder / "map.safetensors")
    images = ("--reference", "fixed.nii.gz", "--moving", "moving.nii.gz")
    code, out, _ = run("invert", "map.safetensors", "-o", "back.nii.gz", *images, "--missed", "missed.nii.gz")
    assert code == 0
    moving, fixed = load_image(folder / "moving.nii.gz"), load_image(folder / "fixed.nii.gz")
    assert nibabel.load(folder / "back.nii.gz").shape[:3] == moving.grid.shape
    assert nibabel.load(folder / "missed.nii.gz").shape == moving.grid.shape
    assert "misses by over 0.01 mm at 0 of" in out
    stored = load_transform(folder / "map.safetensors")
    blocks = ("invert", "map.safetensors", "-o", "again.safetensors", *images, "--missed", "missed.ome.zarr")
    assert run(*blocks)[1].splitlines()[0] == out.splitlines()[0]  # what is counted
    by_blocks = load_image(folder / "missed.ome.zarr").data
    torch.testing.assert_close(by_blocks, load_image(folder / "missed.nii.gz").data, atol=1e-5, rtol=0)
    inner = moving.grid.points_world()[:, 4:-4, 4:-4, 4:-4]
    back = load_transform(folder / "back.nii.gz", pair=GridPair(moving.grid, fixed.grid))
    assert (stored(back(inner)) - inner).norm(dim=-1).mean() < 0.1  # tabulated every 5 mm


@pytest.mark.parametrize(("name", "tool"), [("x.mat", "fsl"), ("x.lta", "freesurfer")])
def test_a_conversion_there_and_back_is_the_same_map(run, folder, name, tool):
    images = ("--reference", "fixed.nii.gz", "--moving", "moving.nii.gz")
    assert run("convert", "turn.tfm", "-o", name, "--to", tool, *images)[0] == 0
    assert run("convert", name, "-o", "again.tfm", "--from", tool, *images)[0] == 0
    assert_same(load_transform(folder / "again.tfm"), TURN)


def test_a_list_is_passed_in_its_order(run, folder):
    assert run("compose", "turn.tfm", "shift.tfm", "stretch.tfm", "-o", "all.tfm")[0] == 0
    expected = STRETCH @ SHIFT @ TURN
    assert_same(load_transform(folder / "all.tfm"), expected)
    (folder / "points.csv").write_text("x,y,z\n10,20,-5\n")
    then = ("--then", "shift.tfm", "--then", "stretch.tfm")
    for more, mapping in (((), expected), (("--inverse",), expected.inverse())):
        assert run("apply-points", "turn.tfm", "points.csv", "-o", "out.csv", *then, *more)[0] == 0
        found = np.loadtxt(folder / "out.csv", delimiter=",", skiprows=1)
        np.testing.assert_allclose(found, mapping(torch.tensor([[10.0, 20, -5]])[None])[0, 0], atol=1e-3)


@pytest.mark.parametrize("inverse", [False, True])
def test_images_are_pulled_through_the_list(run, folder, inverse):
    moving, fixed = load_image(folder / "moving.nii.gz"), load_image(folder / "fixed.nii.gz")
    more = ("--inverse",) if inverse else ()
    options = ("--then", "shift.tfm", "--reference", "fixed.nii.gz", "-o", "out.nii.gz", "--background", "7")
    assert run("apply", "turn.tfm", "moving.nii.gz", *options, *more)[0] == 0
    chain = SHIFT @ TURN
    chain = chain.inverse() if inverse else chain
    found = load_image(folder / "out.nii.gz").data
    expected = resample(moving, chain, fixed.grid).data
    voxel = moving.grid.to_voxel(chain(fixed.grid.points_world()))
    last = torch.tensor(moving.grid.shape) - 1
    reached = ((voxel > 0) & (voxel < last)).all(-1)[:, None]
    beyond = ((voxel < -1) | (voxel > last + 1)).any(-1)[:, None]
    torch.testing.assert_close(found[reached], expected[reached], atol=1e-3, rtol=0)
    assert beyond.any()
    assert (found[beyond] == 7).all()


@pytest.mark.parametrize(("name", "tool"), [("other.mat", "fsl"), ("other.lta", "freesurfer")])
def test_a_file_in_the_frames_of_images_is_read_with_the_images_that_it_is_applied_to(
    run, folder, name, tool
):
    pair = GridPair(*(load_image(folder / f"{name}.nii.gz").grid for name in ("fixed", "moving")))
    save_transform(TURN, folder / name, tool, pair)
    for image, reference, more in (("moving", "fixed", ()), ("fixed", "moving", ("--inverse",))):
        for transform, output, of in (("turn.tfm", "a.nii.gz", "itk"), (name, "b.nii.gz", tool)):
            options = ("--reference", f"{reference}.nii.gz", "-o", output, "--from", of, *more)
            assert run("apply", transform, f"{image}.nii.gz", *options)[0] == 0
        one, other = (load_image(folder / name).data for name in ("a.nii.gz", "b.nii.gz"))
        torch.testing.assert_close(one, other, atol=1e-3, rtol=0)


@pytest.mark.parametrize("interpolation", ["linear", "cubic", "nearest", "label"])
def test_interpolation_and_spacing_are_as_asked_for(run, folder, interpolation):
    moving, fixed = load_image(folder / "moving.nii.gz"), load_image(folder / "fixed.nii.gz")
    ids = Image((moving.data * 5).round().to(torch.int16), moving.grid)
    save_image(ids, folder / "ids.nii.gz")
    options = ("--reference", "fixed.nii.gz", "-o", "out.nii.gz", "--interpolation", interpolation)
    assert run("apply", "turn.tfm", "ids.nii.gz", *options, "--spacing", 9)[0] == 0
    found = load_image(folder / "out.nii.gz")
    assert found.spacing_mm == pytest.approx((9, 9, 9))
    expected = resample(ids, TURN, fixed.grid.resampled(9.0), interpolation).data
    if interpolation in ("nearest", "label"):
        assert (found.data == expected).float().mean() > 0.999  # rounding of points half-way
    else:
        assert (found.data - expected.float()).abs().max() <= 0.51  # whole numbers are stored


@pytest.mark.parametrize("frame", ["ras", "lps", "fixed.nii.gz", "LPS"])
def test_points_are_in_the_frame_that_was_named(run, folder, frame):
    fixed = load_image(folder / "fixed.nii.gz").grid
    world = torch.tensor([[[10.0, 20, -5]]])
    flip = torch.tensor([-1.0, -1, 1])
    given = {"ras": world, "lps": world * flip}.get(frame.lower(), fixed.to_voxel(world))
    (folder / "points.csv").write_text("x,y,z\n" + ",".join(f"{v:.6f}" for v in given.flatten().tolist()))
    options = ("--frame", frame, "--output-frame", "lps")
    assert run("apply-points", "turn.tfm", "points.csv", "-o", "out.csv", *options)[0] == 0
    found = np.loadtxt(folder / "out.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(found, (TURN(world) * flip)[0, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "text", "frame", "written"),
    [
        ("in.csv", "x,y,z\n10,20,-5\n", "ras (by convention; --frame changes it)", "out.csv"),
        ("in.tsv", "label\tl\tp\ts\na\t-10\t-20\t-5\n", "lps (by its columns l,p,s)", "out.tsv"),
        (
            "in.fcsv",
            "# CoordinateSystem = 1\na,-10,-20,-5\n",
            "lps (by its CoordinateSystem = 1)",
            "out.fcsv",
        ),
        (
            "in.mrk.json",
            '{"markups": [{"type": "Line", "controlPoints": [{"position": [-10, -20, -5]}]}]}',
            "lps (by its coordinateSystem LPS)",
            "out.json",
        ),
    ],
)
def test_the_frame_of_points_is_told_with_its_reason(run, folder, name, text, frame, written):
    (folder / name).write_text(text)
    code, out, _ = run("apply-points", "shift.tfm", name, "-o", written)
    assert (code, out) == (0, f"wrote {written}: 1 points, frame: {frame}\n")
    sign = 1 if frame.startswith("ras") else -1
    found = [float(text) for text in re.findall(r"-?\d+\.\d+", (folder / written).read_text())]
    assert found == [sign * 20, 0, 0]


@pytest.mark.parametrize("output", ["points.csv", "./points.csv", "turn.tfm", "shift.tfm"])
def test_points_are_not_written_onto_what_is_read(run, folder, output):
    (folder / "points.csv").write_text("x,y,z\n10,20,-5\n")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, _, error = run("apply-points", "turn.tfm", "points.csv", "-o", output, "--then", "shift.tfm")
    assert (code, error.count("\n")) == (2, 1)
    assert "output must be another file than the inputs" in error
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [((), 2.5), (("--inverse",), 0.4), (("--log",), np.log(2.5)), (("--log", "--inverse"), -np.log(2.5))],
)
def test_the_jacobian_of_a_stretch_is_known(run, folder, options, expected):
    code, out, _ = run("jacobian", "stretch.tfm", "--reference", "fixed.nii.gz", "-o", "j.nii.gz", *options)
    assert code == 0
    np.testing.assert_allclose(nibabel.load(folder / "j.nii.gz").get_fdata(), expected, atol=1e-3)
    smallest = 0.4 if "--inverse" in options else 2.5
    assert f"{smallest:.4f}" in out  # the determinant, not its logarithm


@pytest.mark.parametrize("differences", ["forward", "central"])
def test_the_jacobian_is_by_the_differences_that_were_asked_for(run, folder, differences):
    flow = smooth_velocity(grid_around((20, 20, 20), AFFINES["RAS"] * 9), 6.0)
    save_transform(TURN @ flow, folder / "map.safetensors")
    options = ("--reference", "fixed.nii.gz", "-o", "j.nii.gz", "--differences", differences)
    assert run("jacobian", "map.safetensors", *options)[0] == 0
    grid, transform = load_image(folder / "fixed.nii.gz").grid, load_transform(folder / "map.safetensors")
    by = {name: jacobian_determinant(transform, grid, name).numpy() for name in ("forward", "central")}
    assert np.abs(by["forward"] - by["central"]).max() > 0.01
    np.testing.assert_allclose(nibabel.load(folder / "j.nii.gz").get_fdata(), by[differences], atol=1e-4)
