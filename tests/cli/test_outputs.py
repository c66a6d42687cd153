"""A run never overwrites what it reads, and replaces an earlier run's results only when it is told to."""

import os
import shutil

import nibabel
import numpy as np
import pytest
import torch
from estimators import NO_SEARCH
from synthetic import AFFINES, grid_around, smooth_image

from patchmorph import jobs
from patchmorph.io.images import load_image, save_image
from patchmorph.io.transforms.formats import save_transform
from patchmorph.results.folder import DEFAULT, FILES, RESULTS
from patchmorph.transforms.base import AffineTransform


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A file of each kind that a command reads, by a name that it may also write."""
    for name, orientation in (("fixed", "LAS"), ("moving", "LIA"), ("mask", "LAS")):
        save_image(
            smooth_image(grid_around((15, 17, 14), AFFINES[orientation] * 12)), tmp_path / f"{name}.nii.gz"
        )
    shift = AffineTransform.translation(torch.tensor([[1.0, 2, 3]]))
    for name in ("one.tfm", "two.tfm"):
        save_transform(shift, tmp_path / name)
    (tmp_path / "points.csv").write_text("x,y,z\n1,2,3\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(run, folder, arguments, message="output must be another file than the inputs"):
    before = contents(folder)
    code, _, error = run(*arguments.split())
    assert code == 2, error
    assert error.startswith(f"patchmorph: {message}"), error
    assert error.count("\n") == 1
    assert contents(folder) == before


COMMANDS = {
    "apply one.tfm moving.nii.gz --reference fixed.nii.gz --then two.tfm -o": (
        "moving.nii.gz",
        "fixed.nii.gz",
    ),
    "apply moving.nii.gz moving.nii.gz --reference fixed.nii.gz -o": ("fixed.nii.gz",),
    "apply-points one.tfm points.csv --then two.tfm -o": ("points.csv",),
    "apply-points points.csv points.csv -o": ("points.csv",),
    "compose one.tfm two.tfm --reference fixed.nii.gz --moving moving.nii.gz -o": (
        "one.tfm",
        "two.tfm",
        "fixed.nii.gz",
        "moving.nii.gz",
    ),
    "invert one.tfm --reference fixed.nii.gz --moving moving.nii.gz -o": (
        "one.tfm",
        "fixed.nii.gz",
        "moving.nii.gz",
    ),
    "invert one.tfm --moving moving.nii.gz -o new.tfm --missed": ("moving.nii.gz",),
    "convert one.tfm --reference fixed.nii.gz --moving moving.nii.gz -o": (
        "one.tfm",
        "fixed.nii.gz",
        "moving.nii.gz",
    ),
    "jacobian one.tfm --reference fixed.nii.gz -o": ("fixed.nii.gz",),
    "jacobian moving.nii.gz --reference fixed.nii.gz -o": ("moving.nii.gz",),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("link", ["", "link-", "hard-", "sub/../"])
def test_no_command_overwrites_what_it_reads(run, folder, command, link):
    (folder / "sub").mkdir()
    for name in COMMANDS[command]:
        if link == "link-":
            (folder / f"link-{name}").symlink_to(folder / name)
        elif link == "hard-":
            os.link(folder / name, folder / f"hard-{name}")
        refused(run, folder, f"{command} {link}{name}")


def test_no_image_of_several_is_overwritten(run, folder):
    (folder / "out").mkdir()
    for place in (".", "out/..", str(folder)):
        refused(run, folder, f"apply one.tfm moving.nii.gz mask.nii.gz --reference fixed.nii.gz -o {place}")
    shutil.move(folder / "fixed.nii.gz", folder / "out" / "mask.nii.gz")
    refused(run, folder, "apply one.tfm moving.nii.gz mask.nii.gz --reference out/mask.nii.gz -o out")


def test_two_outputs_are_two_files(run, folder):
    command = "invert one.tfm --reference fixed.nii.gz --moving moving.nii.gz"
    refused(run, folder, f"{command} -o a.nii.gz --missed ./a.nii.gz", "outputs must be different files")


@pytest.mark.parametrize("command", [name for name in COMMANDS if not name.startswith("apply-points")])
def test_an_output_that_is_no_file_is_refused(run, folder, command):
    ending = "nii.gz" if command.startswith(("apply", "jacobian")) or "--missed" in command else "tfm"
    (folder / f"folder.{ending}").mkdir()
    refused(run, folder, f"{command} folder.{ending}", "output must be a file or new, got a folder")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / f"pipe.{ending}")
        refused(run, folder, f"{command} pipe.{ending}", "output must be a file or new, got a device or pipe")
        assert not (folder / f"pipe.{ending}").is_file()


@pytest.mark.parametrize("name", ["warped.nii.gz", "uncertainty.nii.gz"])
@pytest.mark.parametrize("role", ["fixed", "moving", "fixed-mask", "moving-mask"])
@pytest.mark.parametrize("option", ["", " --overwrite"])
def test_no_registration_overwrites_what_it_reads(run, folder, name, role, option):
    """Files of these names in its folder are an earlier run's, and a natural input of the next."""
    (folder / "out").mkdir()
    shutil.copy(folder / "mask.nii.gz", folder / "out" / name)
    files = {"fixed": "fixed.nii.gz", "moving": "moving.nii.gz"} | {role: f"out/{name}"}
    masks = "".join(f" --{key} {path}" for key, path in files.items() if key.endswith("mask"))
    refused(run, folder, f"register {files['fixed']} {files['moving']}{masks} -o out{option}")
    (folder / "link").symlink_to(folder / "out")
    refused(run, folder, f"register {files['fixed']} {files['moving']}{masks} -o link{option}")


def test_no_registration_overwrites_its_model(run, folder, files):
    (folder / "out").mkdir()
    shutil.copy(files.model, folder / "out" / "transform.safetensors")
    model = "--model out/transform.safetensors"
    refused(run, folder, f"register fixed.nii.gz moving.nii.gz {model} -o out --overwrite")


@pytest.mark.parametrize("name", RESULTS)
def test_results_stay_unless_they_may_be_replaced(run, folder, name, monkeypatch):
    (folder / "out").mkdir()
    (folder / "out" / name).write_text("an earlier run's")
    message = "output must be a folder without results of an earlier run, or --overwrite given, got " + name
    refused(run, folder, "register fixed.nii.gz moving.nii.gz -o out", message)

    def fail(**given):
        raise ValueError("here the work begins")

    monkeypatch.setattr(jobs, "register", fail)
    with pytest.raises(ValueError, match="here the work begins"):
        run("register", "fixed.nii.gz", "moving.nii.gz", "-o", "out", "--overwrite")
    assert (folder / "out" / name).read_text() == "an earlier run's"


def register_into(folder, files):
    """A registration of the small pair into ``out``."""
    images = (files.fixed, files.moving)
    return ("register", *images, "--model", files.model, *NO_SEARCH, "-o", folder / "out")


def test_a_new_run_leaves_no_file_of_the_one_before(run, files, tmp_path):
    command = register_into(tmp_path, files)
    labels = ("--moving-labels", files.moving_mask)
    assert run(*command, *labels, "--save-uncertainty", "--save", "all")[0] == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*FILES.values(), "warped_labels.nii.gz"}
    (tmp_path / "out" / "mine.txt").write_text("mine")
    before = contents(tmp_path)
    assert run(*command)[0] == 2
    assert run(*command, "--overwrite", "--similarity", "looks")[0] == 2
    assert contents(tmp_path) == before
    assert run(*command, "--overwrite")[0] == 0
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {FILES[key] for key in DEFAULT} | {"mine.txt"}
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_images_are_written_in_the_format_that_was_chosen(run, files, tmp_path):
    command = register_into(tmp_path, files)
    assert run(*command, "--save", "warped,uncertainty")[0] == 0
    before = load_image(tmp_path / "out" / "warped.nii.gz")
    assert run(*command, "--save", "warped,uncertainty", "--format", "nrrd", "--overwrite")[0] == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"warped.nrrd", "uncertainty.nrrd"}
    after = load_image(tmp_path / "out" / "warped.nrrd")
    assert torch.equal(after.data, before.data)
    torch.testing.assert_close(after.grid.voxel_to_world, before.grid.voxel_to_world, atol=1e-4, rtol=0)
    code, _, error = run(*command, "--format", "png", "--overwrite")
    assert (code, error.startswith("patchmorph: format of images must be among nii, nii.gz, ")) == (2, True)
    assert error.endswith(", got png\n")


@pytest.mark.parametrize("name", ["pairs.csv", "summary.json"])
def test_an_evaluation_does_not_overwrite_its_table_or_images(run, folder, name):
    (folder / "out").mkdir()
    (folder / "out" / name).write_text("fixed,moving\n../fixed.nii.gz,../moving.nii.gz\n")
    refused(run, folder, f"evaluate out/{name} -o out --model none")
    shutil.copy(folder / "fixed.nii.gz", folder / "out" / name)
    (folder / "table.csv").write_text(f"fixed,moving\nout/{name},moving.nii.gz\n")
    refused(run, folder, "evaluate table.csv -o out --model none")


@pytest.mark.parametrize("key", ["weights", "affine_weights"])
@pytest.mark.parametrize("name", ["model.safetensors", "best.safetensors"])
def test_a_training_does_not_overwrite_its_first_weights(run, folder, files, key, name):
    (folder / "run").mkdir()
    shutil.copy(files.model, folder / "run" / name)
    text = "data: {images: [fixed.nii.gz, moving.nii.gz]}\n" + f"run: {{output: run, {key}: run/{name}}}\n"
    (folder / "training.yaml").write_text(text)
    refused(run, folder, "train training.yaml")


def test_images_that_are_no_input_may_be_overwritten(run, folder):
    for _ in range(2):
        assert (
            run("apply", "one.tfm", "moving.nii.gz", "--reference", "fixed.nii.gz", "-o", "mask.nii.gz")[0]
            == 0
        )
    assert nibabel.load(folder / "mask.nii.gz").shape == (15, 17, 14)
    assert np.isfinite(nibabel.load(folder / "mask.nii.gz").get_fdata()).all()
