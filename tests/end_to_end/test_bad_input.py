"""Whatever a user gets wrong is one line, status 2, and leaves nothing behind."""

import nibabel
import numpy as np
import pytest
import torch

from patchmorph.io.transforms.formats import save_transform
from patchmorph.transforms.base import AffineTransform


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
    assert_one_line(run("demo", "-o", good), "output must be a folder, got the file")
    assert nibabel.load(good).shape == (20, 20, 20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("missing.h5", "good.nii.gz", "--reference", "good.nii.gz", "-o", "a.nii.gz"),
            "transform must be an existing",
        ),
        (
            ("text.nii.gz", "good.nii.gz", "--reference", "good.nii.gz", "-o", "a.nii.gz"),
            "image must be a readable NIfTI",
        ),
        (("x.h5", "good.nii.gz", "--reference", "good.nii.gz", "-o", "a.jpg"), "image file must end in"),
        (
            ("x.h5", "good.nii.gz", "--reference", "good.nii.gz", "-o", "a.nii", "--interpolation", "cubist"),
            "interpolation must be one of auto, linear, cubic, nearest, label, got cubist",
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


@pytest.fixture
def transform(files):
    save_transform(AffineTransform.translation(torch.tensor([[1.0, 2, 3]])), files / "shift.tfm")
    (files / "points.csv").write_text("x,y,z\n1,2,3\n")
    (files / "folder.mat").mkdir()
    return files / "shift.tfm"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "apply shift.tfm good.nii.gz --reference good.nii.gz -o x.nii.gz --interpolation best",
            "one of auto, linear",
        ),
        (
            "apply shift.tfm good.nii.gz --reference good.nii.gz -o x.nii.gz --spacing 0",
            "above 0 mm and finite, got 0",
        ),
        ("apply shift.tfm good.nii.gz --reference good.nii.gz -o x.nii.gz --spacing inf", "finite, got inf"),
        (
            "apply shift.tfm good.nii.gz --reference good.nii.gz -o x.nii.gz --spacing 0.0005",
            "must fit its format",
        ),
        (
            "apply shift.tfm good.nii.gz --reference good.nii.gz -o good.nii.gz",
            "must be another file than the inputs",
        ),
        ("apply folder.mat good.nii.gz --reference good.nii.gz -o x.nii.gz", "must be an existing file"),
        ("apply shift.tfm good.nii.gz --reference good.nii.gz -o x.txt", "image file must end in .nii"),
        ("apply shift.tfm missing.nii.gz --reference good.nii.gz -o x.nii.gz", "must be an existing file"),
        ("apply shift.tfm flat.nii.gz --reference good.nii.gz -o x.nii.gz", "must have three axes"),
        ("apply shift.tfm good.nii.gz good.nii.gz --reference good.nii.gz -o x", "must have different names"),
        ("apply good.nii.gz good.nii.gz --reference good.nii.gz -o x.nii.gz", "must have shape (x, y, z, 3)"),
        ("apply text.nii.gz good.nii.gz --reference good.nii.gz -o x.nii.gz", "must be a readable NIfTI"),
        (
            "apply shift.tfm good.nii.gz --reference good.nii.gz -o x.nii.gz --then y.h5",
            "existing file, got y.h5",
        ),
        ("apply-points shift.tfm points.csv -o x.csv --frame mni", "frame must be ras, lps or an image"),
        ("apply-points shift.tfm points.csv -o x.ply", "must be written as .csv"),
        ("apply-points shift.tfm good.nii.gz -o x.csv", "must be in a file that ends in .csv"),
        (
            "convert shift.tfm -o x.mat --to fsl",
            "must be given the fixed image (--reference; or convert it first)",
        ),
        ("convert shift.tfm -o x.abc", "transform file must end in"),
        ("convert shift.tfm -o x.mat --to elastix", "tool must be one of"),
        ("convert shift.tfm -o x.h5 --from fsl", "transform file of fsl must end in"),
        ("compose shift.tfm missing.h5 -o x.h5", "must be an existing file"),
        ("invert shift.tfm -o x.h5 --missed y.nii.gz", "option --missed must be given the moving image"),
        (
            "jacobian shift.tfm --reference good.nii.gz -o x.nii.gz --differences far",
            "forward or central, got far",
        ),
        ("jacobian shift.tfm --reference good.nii.gz -o x.csv", "image file must end in .nii"),
    ],
)
def test_unusable_transforms_images_and_points(run, files, transform, monkeypatch, arguments, message):
    monkeypatch.chdir(files)
    before = set(files.iterdir())
    assert_one_line(run(*arguments.split()), message)
    assert set(files.iterdir()) == before
