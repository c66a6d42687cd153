"""Kinds of maps, initial transforms and labels through ``register``, and the panels of its help."""

import json

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from estimators import NO_SEARCH
from registered import registered

import patchmorph
from patchmorph import jobs
from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.grids import GridPair
from patchmorph.io.images import load_grid, load_image, save_image
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.transforms.base import AffineTransform

NEAR = AffineTransform.translation(torch.tensor([[0.2, -0.3, 0.3]]))
"""About one voxel."""


@pytest.fixture
def register(run, files, tmp_path):
    """Run ``register OPTIONS``: status, summary or error."""

    def command(*options):
        folder = tmp_path / "out"
        code, _, error = run(
            "register",
            files.fixed,
            files.moving,
            "-o",
            folder,
            "--model",
            files.model,
            "--overwrite",
            *NO_SEARCH,
            *options,
        )
        return code, error if code else json.loads((folder / "summary.json").read_text())

    return command


def error_mm(files, transform) -> float:
    return float((transform(files.points) - files.truth(files.points)).norm(dim=-1).mean())


@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_a_linear_map_is_one_matrix_in_every_file(register, run, files, tmp_path, kind):
    code, summary = register("--transform", kind, "--save", "all")
    assert code == 0
    assert summary["arguments"]["transform"] == kind
    assert summary["folding_percent"] == 0
    out = tmp_path / "out"
    matrix = load_transform(out / "transform.safetensors").matrix
    assert (abs(float(torch.linalg.det(matrix[0, :3, :3])) - 1) < 1e-6) == (kind == "rigid")
    for name in ("transform.h5", "inverse_transform.h5"):
        composite = sitk.ReadTransform(str(out / name))
        assert composite.GetNumberOfTransforms() == 1
        assert composite.GetNthTransform(0).GetTransformEnum() == sitk.sitkAffine
        assert (out / name).stat().st_size < 50_000  # no field
    torch.testing.assert_close(load_transform(out / "transform.h5").matrix, matrix, atol=1e-6, rtol=0)
    grids = ("--reference", files.fixed, "--moving", files.moving)
    for name, tool in (("a.tfm", "itk"), ("a.mat", "fsl"), ("a.lta", "freesurfer"), ("a.aff12.1D", "afni")):
        assert run("convert", out / "transform.h5", "-o", tmp_path / name, "--to", tool, *grids)[0] == 0
        pair = GridPair(load_grid(files.fixed), load_grid(files.moving))
        again = load_transform(tmp_path / name, tool, pair)
        assert isinstance(again, AffineTransform)
        torch.testing.assert_close(again.matrix, matrix, atol=1e-4, rtol=0)
    assert error_mm(files, AffineTransform(matrix)) < 0.15  # mm; voxels are 0.33 mm


@pytest.mark.parametrize("kind", ["rigid", "affine", "deformable"])
def test_an_initial_transform_file_of_another_tool_is_part_of_the_result(register, files, tmp_path, kind):
    pair = GridPair(load_grid(files.fixed), load_grid(files.moving))
    save_transform(files.truth @ NEAR, tmp_path / "flirt.txt", "fsl", pair)
    options = ("--transform", kind, "--initial-transform", tmp_path / "flirt.txt", "--initial-from", "fsl")
    code, summary = register(*options)
    assert code == 0
    assert summary["arguments"]["initial_transform"] == str(tmp_path / "flirt.txt")
    found = load_transform(tmp_path / "out" / "transform.h5")
    assert error_mm(files, found) < 0.1 < error_mm(files, files.truth @ NEAR)


def test_a_rigid_map_keeps_the_size_that_an_initial_transform_file_gives(register, files, tmp_path):
    """Which a search, were the file ignored, would not find."""
    larger = AffineTransform(torch.diag(torch.tensor([1.02, 1.02, 1.02, 1.0])).double()[None])
    save_transform(files.truth @ larger, tmp_path / "larger.tfm")
    assert register("--transform", "rigid", "--initial-transform", tmp_path / "larger.tfm")[0] == 0
    matrix = load_transform(tmp_path / "out" / "transform.safetensors").affine_part().matrix
    expected = torch.linalg.det((files.truth @ larger).affine_part().matrix[0, :3, :3])
    torch.testing.assert_close(torch.linalg.det(matrix[0, :3, :3]), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "nearby",
            "initial transform must be an existing file, or search, centers, header, identity, got nearby",
        ),
        ("away.tfm", "initial transform must bring the images to overlap, got nothing of"),
        ("bare.txt", "format of a matrix must be named (--from), got none"),
        ("gaps.nii.gz", "initial transform must map every point, got 1 voxels without a value"),
    ],
)
def test_initial_transforms_that_cannot_be_used_are_one_line(
    register, files, tmp_path, monkeypatch, given, message
):
    monkeypatch.chdir(tmp_path)
    save_transform(AffineTransform.translation(torch.tensor([[900.0, 0, 0]])), tmp_path / "away.tfm")
    np.savetxt(tmp_path / "bare.txt", np.eye(4))
    field = np.zeros((4, 4, 4, 1, 3), np.float32)
    field[1, 1, 1] = np.nan
    image = sitk.GetImageFromArray(field[..., 0, :], isVector=True)
    image.SetOrigin([-20.0] * 3)
    image.SetSpacing([10.0] * 3)
    sitk.WriteImage(image, str(tmp_path / "gaps.nii.gz"))
    options = ("--initial-from", "itk") if given == "gaps.nii.gz" else ()
    code, error = register("--initial-transform", given, *options)
    assert code == 2
    assert message in error.splitlines()[-1]


def test_python_takes_a_matrix_or_a_transform_as_it_takes_a_file(files, tmp_path):
    start = files.truth @ NEAR
    save_transform(start, tmp_path / "start.tfm")
    matrix = start.matrix[0]
    found = [
        patchmorph.register(
            files.fixed, files.moving, files.model, transform="affine", initial_transform=given
        )
        for given in (matrix.numpy(), matrix, start, tmp_path / "start.tfm", str(tmp_path / "start.tfm"))
    ]
    first = found[0].transform(files.points)
    for other in found[1:]:
        torch.testing.assert_close(other.transform(files.points), first, atol=1e-3, rtol=0)
    assert error_mm(files, found[0].transform) < 0.1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            np.eye(3),
            r"must be a transform, a file or a 4 by 4 matrix, got ndarray of shape \(3, 3\)",
        ),
        (np.array([["a"] * 4] * 4), "a 4 by 4 matrix, got ndarray of shape"),
        (np.zeros((4, 4)), "affine must end in the row 0 0 0 1, got .* in the initial transform"),
        (np.full((4, 4), np.nan), "affine must be finite"),
        ("none.h5", "initial transform must be an existing file, or search"),
    ],
)
def test_python_refuses_what_is_no_map(files, given, message):
    with pytest.raises(PatchMorphError, match=message):
        patchmorph.register(files.fixed, files.moving, "none", initial_transform=given)


def labelled(files, tmp_path):
    """Labels of both images: 3 in the brain, 4 in its lower half."""
    paths = []
    for side in ("fixed", "moving"):
        image, half = load_image(getattr(files, side)), load_image(getattr(files, f"{side}_mask"))
        ids = (image.data > 0.2).to(torch.int16) * (3 + (half.data > 0).to(torch.int16))
        paths.append(tmp_path / f"{side}_labels.nii.gz")
        save_image(Image(ids, image.grid), paths[-1])
    return paths


def test_labels_are_warped_compared_and_reported(register, files, tmp_path):
    fixed, moving = labelled(files, tmp_path)
    code, summary = register("--fixed-labels", fixed, "--moving-labels", moving)
    assert code == 0
    assert set(summary["dice"]) == {"3", "4"}
    assert min(summary["dice"].values()) > 0.85  # of small structures
    warped = load_image(tmp_path / "out" / "warped_labels.nii.gz")
    assert warped.grid.equals(load_grid(files.fixed))
    assert set(warped.data.unique().tolist()) == {0, 3, 4}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Overlap of labels (Dice)" in page
    assert f"<li><span>3</span><span>{summary['dice']['3']:.3f}</span>" in page
    assert f"Mean {sum(summary['dice'].values()) / 2:.3f} over 2 labels" in page
    assert 'id="data-labels-warped"' in page


def test_moving_labels_alone_are_warped(register, files, tmp_path):
    _, moving = labelled(files, tmp_path)
    code, summary = register("--moving-labels", moving)
    assert (code, summary["dice"]) == (0, {})
    assert (tmp_path / "out" / "warped_labels.nii.gz").is_file()
    assert "Overlap of labels" not in (tmp_path / "out" / "report.html").read_text()
    assert register()[0] == 0
    assert not (tmp_path / "out" / "warped_labels.nii.gz").exists()


def test_labels_that_cannot_be_used_are_refused_before_the_registration(register, files, monkeypatch):
    monkeypatch.setattr(jobs, "register", lambda **given: pytest.fail("registered"))
    code, error = register("--moving-labels", files.moving)
    assert code == 2
    assert "patchmorph: labels must be whole numbers, got 0." in error
    code, error = register("--fixed-labels", files.fixed_mask)
    assert code == 2
    assert "patchmorph: labels must be given for the moving image, too, got" in error


def test_two_presets_are_refused(register):
    code, error = register("--fast", "--best")
    assert code == 2
    assert "preset must be one, got --fast and --best" in error


def test_the_format_of_an_initial_file_without_a_file_is_refused(register, tmp_path):
    """It would have no effect."""
    code, error = register("--initial-from", "ants", "--initial-transform", "centers")
    assert code == 2
    assert "--initial-from must come with a file as initial transform, got centers" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("save", "named"), [("report", "out/report.html"), ("warped", "out")])
def test_a_command_names_the_report_only_where_there_is_one(run, files, tmp_path, save, named):
    options = ("--model", files.model, "--save", save, *NO_SEARCH)
    code, out, _ = run("register", files.fixed, files.moving, "-o", tmp_path / "out", *options)
    assert code == 0
    assert f"{tmp_path / named}" in out.splitlines()


def test_help_has_panels_and_the_defaults(run):
    code, text, _ = run("register", "--help")
    assert code == 0
    words = " ".join(word for word in text.split() if word != "│")
    assert "or all (without uncertainty)." in words
    panels = [line.split("─ ")[1].split(" ─")[0] for line in text.splitlines() if line.startswith("╭")]
    assert [panel for panel in panels if panel not in ("Arguments", "Options", "Common")] == [
        "Images",
        "Method",
        "Output",
        "Checks",
    ]
    assert "deformable]" in text  # "[default: " may be on the line before


def test_registrations_of_a_given_map_have_its_dice(register, files, tmp_path, monkeypatch):
    """Labels go through the map of the result: moved by half a brain, they overlap less."""
    fixed, moving = labelled(files, tmp_path)
    away = files.truth @ AffineTransform.translation(torch.tensor([[4.0, 0, 0]]))
    monkeypatch.setattr(jobs, "register", lambda fixed, moving, **_: registered(fixed, moving, away))
    code, summary = register("--fixed-labels", fixed, "--moving-labels", moving)
    assert code == 0
    assert summary["dice"]["3"] < 0.8
