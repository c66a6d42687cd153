"""Registration through the command line: what is known is found again, files agree with each other."""

import json

import nibabel
import numpy as np
import pytest
import torch
from synthetic import AFFINES, grid_around

from patchmorph import api, demo
from patchmorph.evaluation.benchmark import measure
from patchmorph.io.images import load_image, save_image
from patchmorph.io.itk import load_transform
from patchmorph.spatial.image import Image
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.resample import resample

FILES = {"warped.nii.gz", "transform.h5", "inverse_transform.h5", "report.html", "summary.json"}


def test_a_known_map_is_recovered_through_the_command_line(run, brains, tmp_path):
    output = tmp_path / "results"
    code, _, _ = run("register", brains.fixed, brains.moving, "-o", output)
    assert code == 0
    assert {item.name for item in output.iterdir()} == FILES
    found = load_transform(output / "transform.h5")
    error = (found(brains.points) - brains.truth(brains.points)).norm(dim=-1)
    # The moving brain starts 20 mm and 12° away; its voxels are 1.0 to 1.5 mm.
    assert error.mean() < 0.6
    assert error.quantile(0.99) < 2.0
    back = load_transform(output / "inverse_transform.h5")
    assert (back(found(brains.points)) - brains.points).norm(dim=-1).mean() < 0.1  # on its own grid
    summary = json.loads((output / "summary.json").read_text())
    assert summary["similarity_after"] > 0.97 > summary["similarity_before"]
    assert summary["folding_percent"] <= 0.05
    assert summary["arguments"]["model"] == "t1-brain"
    report = (output / "report.html").read_text()
    assert report.count("data:image/png;base64,") == 2
    assert str(brains.moving) in report


def test_apply_gives_the_warped_image_again(run, brains, tmp_path):
    run("register", brains.fixed, brains.moving, "-o", tmp_path)
    again, back = tmp_path / "again.nii.gz", tmp_path / "back.nii.gz"
    code, _, _ = run(
        "apply", tmp_path / "transform.h5", brains.moving, "--reference", brains.fixed, "-o", again
    )
    assert code == 0
    warped, applied = (nibabel.load(path).get_fdata() for path in (tmp_path / "warped.nii.gz", again))
    # The file holds the fields in double precision, so the same points within rounding.
    np.testing.assert_allclose(applied, warped, atol=0.01)
    run("apply", tmp_path / "transform.h5", again, "--reference", brains.moving, "-o", back, "--inverse")
    moving, returned = (load_image(path).data for path in (brains.moving, back))
    assert np.corrcoef(moving.flatten(), returned.flatten())[0, 1] > 0.98


@pytest.fixture(scope="module")
def model():
    return api.load_model("t1-brain", "cpu")


def test_oblique_and_anisotropic_storage_gives_the_same_map(mni, model):
    pose, flow = demo.known_map(mni.grid)
    moving = resample(mni, (pose @ flow).inverse(), demo.moving_grid(pose, mni.grid.center_world))
    points = mni.grid.points_world()[:, ::3, ::3, ::3][mni.data[:, 0, ::3, ::3, ::3] > 0.1][None]
    reference = api.register(mni, moving, model).transform(points)
    identity = AffineTransform.identity()
    for name, shape in (("oblique", (240, 250, 220)), ("anisotropic", (150, 230, 95))):
        grid = grid_around(shape, AFFINES[name], mni.grid.center_world[0].numpy())
        found = api.register(resample(mni, identity, grid), moving, model).transform(points)
        # Resampling to up to 2 mm voxels changes what is seen; half a voxel on average.
        assert (found - reference).norm(dim=-1).mean() < 0.5


def test_real_brains_of_other_people(data, model):
    """One pair of the labelled set, by the protocol behind the README's figures."""
    folder = data / "t1-labelled"
    fixed, moving = (load_image(folder / f"sub-0{k}_T1w.nii.gz") for k in (1, 2))
    labels = tuple(load_image(folder / f"sub-0{k}_labels.nii.gz") for k in (1, 2))
    result = api.register(fixed, moving, model)
    figures = measure(result, result.warped(), labels, 0.0)
    # Below the packaged weights' own figures on this pair, above what a lost stage would give.
    assert figures.dice_aseg > 0.81
    assert figures.dice_cortex > 0.60
    assert figures.folding_percent <= 0.05
    points = fixed.grid.points_world()[labels[0].data[:, 0] > 0][None, ::20]
    assert (result.inverse(result.transform(points)) - points).norm(dim=-1).mean() < 0.1


def test_python_takes_paths_and_images(brains, model):
    by_path = api.register(brains.fixed, str(brains.moving), model)
    assert by_path.warped().data.shape == by_path.fixed.data.shape
    ids = Image((by_path.moving.data > 0.3).to(torch.int32) * 70000, by_path.moving.grid)
    assert set(by_path.warped(ids, "label").data.unique().tolist()) == {0, 70000}


def test_the_demo_measures_itself_against_the_truth_without_colin(run, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "_colin27", lambda: None)
    code, out, _ = run("demo", "-o", tmp_path / "demo")
    assert code == 0
    assert {item.name for item in (tmp_path / "demo").iterdir()} == FILES
    assert "not installed" in out
    mean = float(out.split("truth: mean")[1].split("mm")[0])
    assert mean < 1.0


def test_labels_keep_their_ids_through_the_command_line(run, brains, tmp_path):
    run("register", brains.fixed, brains.moving, "-o", tmp_path)
    moving = load_image(brains.moving)
    ids = Image((moving.data > 0.3).to(torch.int32) * (2**24 + 1), moving.grid)
    save_image(ids, tmp_path / "ids.nii.gz")
    for interpolation in ("nearest", "label"):
        warped = tmp_path / f"{interpolation}.nii.gz"
        arguments = ("--reference", brains.fixed, "-o", warped, "--interpolation", interpolation)
        assert run("apply", tmp_path / "transform.h5", tmp_path / "ids.nii.gz", *arguments)[0] == 0
        assert set(load_image(warped).data.unique().tolist()) == {0, 2**24 + 1}
