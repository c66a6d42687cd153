"""Whatever a user gets wrong is one line, status 2, and leaves nothing behind."""

import nibabel
import numpy as np
import pytest


@pytest.fixture
def files(tmp_path):
    """Unusable images by name, and one good one."""
    blob = np.zeros((20, 20, 20), np.uint8)
    blob[5:15, 5:15, 5:15] = 100
    singular = nibabel.Nifti1Image(blob, None)
    singular.header.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), code=1)
    volumes = {
        "good": nibabel.Nifti1Image(blob, np.eye(4)),
        "flat": nibabel.Nifti1Image(blob[:, :, 0], np.eye(4)),
        "frames": nibabel.Nifti1Image(np.stack([blob] * 3, -1), np.eye(4)),
        "zeros": nibabel.Nifti1Image(blob * 0, np.eye(4)),
        "nan": nibabel.Nifti1Image(np.where(blob > 0, np.nan, 1.0).astype(np.float32), np.eye(4)),
        "singular": singular,
        "point": nibabel.Nifti1Image(np.pad(blob[7:8, 7:8, 7:8], 64), np.eye(4)),
    }
    for name, volume in volumes.items():
        nibabel.save(volume, tmp_path / f"{name}.nii.gz")
    (tmp_path / "text.nii.gz").write_text("no image")
    return tmp_path


def assert_one_line(result, message):
    code, _, error = result
    assert code == 2
    assert error.count("\n") == 1, error
    assert error.startswith("patchmorph: ")
    assert message in error


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "must be an existing file"),
        ("text", "must be a readable NIfTI or MGZ volume"),
        ("flat", "must be one 3D volume, got shape (20, 20)"),
        ("frames", "must be one 3D volume, got shape (20, 20, 20, 3)"),
        ("singular", "affine must be invertible, got determinant 0"),
        ("point", "must have content larger than a point"),
        ("zeros", "must have content, got 0 in every voxel"),
        ("nan", "must be finite everywhere, got 1000 NaN"),
    ],
)
def test_unusable_images(run, files, name, message):
    before = set(files.iterdir())
    for pair in ((f"{name}.nii.gz", "good.nii.gz"), ("good.nii.gz", f"{name}.nii.gz")):
        result = run("register", *(files / item for item in pair), "-o", files / "results")
        assert_one_line(result, message)
        assert f"{name}.nii.gz" in result[2]
    assert set(files.iterdir()) == before


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--model", "t2-liver", "model must be one of brain-any-contrast, t1-brain"),
        ("--model", "good.nii.gz", "model must be"),
        ("--device", "cuda:7", "device must be on this machine, got cuda:7"),
        ("--device", "abacus", "device must be auto, cpu or cuda, got abacus"),
        ("--similarity", "looks", "similarity must be one of lncc, mse, mind, mi, got looks"),
    ],
)
def test_unusable_options(run, files, monkeypatch, option, value, message):
    monkeypatch.chdir(files)
    before = set(files.iterdir())
    assert_one_line(run("register", "good.nii.gz", "good.nii.gz", "-o", "results", option, value), message)
    assert set(files.iterdir()) == before


def test_an_output_that_is_a_file(run, files):
    good = files / "good.nii.gz"
    assert_one_line(run("register", good, good, "-o", good), "output must be a folder, got the file")
    assert nibabel.load(good).shape == (20, 20, 20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("missing.h5", "good.nii.gz", "--reference", "good.nii.gz", "-o", "a.nii.gz"),
            "transform must be an existing",
        ),
        (("text.nii.gz", "good.nii.gz", "--reference", "good.nii.gz", "-o", "a.nii.gz"), "transform must be"),
        (("x.h5", "good.nii.gz", "--reference", "good.nii.gz", "-o", "a.jpg"), "image file must end in"),
        (
            ("x.h5", "good.nii.gz", "--reference", "good.nii.gz", "-o", "a.nii", "--interpolation", "cubist"),
            "interpolation must be linear, nearest or label, got cubist",
        ),
    ],
)
def test_unusable_arguments_of_apply(run, files, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    before = set(files.iterdir())
    assert_one_line(run("apply", *arguments), message)
    assert set(files.iterdir()) == before


def test_unusable_tables_and_configurations(run, files):
    (files / "pairs.csv").write_text("left,right\n")
    assert_one_line(run("evaluate", files / "pairs.csv", "-o", files / "out"), "columns must be")
    (files / "config.yaml").write_text("run: [")
    assert_one_line(run("train", files / "config.yaml"), "configuration must be YAML")
    assert not (files / "out").exists()


def test_usage_errors_have_status_2_too(run):
    assert run("register")[0] == 2
    assert run("registre")[0] == 2
