"""Registration through the command line: what is known is found again, files agree with each other."""

import json
import os

import pytest
import torch
from synthetic import AFFINES, grid_around

from patchmorph import api, demo
from patchmorph.evaluation.benchmark import measure
from patchmorph.evaluation.labels import PairLabels
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image, save_image
from patchmorph.io.transforms.formats import load_transform
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.resample import resample

FILES = {
    "warped.nii.gz",
    "transform.safetensors",
    "transform.h5",
    "report.html",
    "summary.json",
    "patchmorph.log",
}


def test_a_known_map_is_recovered_through_the_command_line(brains):
    assert {item.name for item in brains.results.iterdir()} == FILES
    found = load_transform(brains.results / "transform.h5")
    error = (found(brains.points) - brains.truth(brains.points)).norm(dim=-1)
    # The moving brain starts 20 mm and 12° away; voxels are 1.6 to 2.4 mm.
    assert error.mean() < 0.7
    assert error.quantile(0.99) < 2.5
    back = load_transform(brains.results / "transform.h5").inverse()
    assert (back(found(brains.points)) - brains.points).norm(dim=-1).mean() < 0.1
    summary = json.loads((brains.results / "summary.json").read_text())
    assert summary["similarity_after"] > 0.9 > summary["similarity_before"]
    assert summary["folding_percent"] <= 0.05
    assert summary["arguments"]["model"] == "auto"
    assert summary["notes"] == ["the contrasts are alike: model t1-brain"]
    report = (brains.results / "report.html").read_text()
    assert report.count("data:image/jpeg;base64,") == 1 + 2 + 3 * 6  # icon, mosaics, planes
    assert os.path.relpath(brains.moving, brains.results) in report
    assert len(report) < 15e6


@pytest.mark.slow
def test_refinement_and_uncertainty_through_the_command_line(run, brains, tmp_path):
    arguments = ("--refine", 1, "--save-uncertainty", "--device", "cpu")
    assert run("register", brains.fixed, brains.moving, "-o", tmp_path, *arguments)[0] == 0
    assert {item.name for item in tmp_path.iterdir()} == FILES | {"uncertainty.nii.gz"}
    assert json.loads((tmp_path / "summary.json").read_text())["arguments"]["refine"] == 1
    before, after = (
        (load_transform(folder / "transform.h5")(brains.points) - brains.truth(brains.points)).norm(dim=-1)
        for folder in (brains.results, tmp_path)
    )
    assert after.mean() < before.mean() + 0.02  # a hundredth of a voxel: one pass gains little
    deviation = load_image(tmp_path / "uncertainty.nii.gz")
    assert deviation.grid.shape == load_image(brains.fixed).grid.shape
    assert 0 < deviation.data.max() < 10


@pytest.mark.slow
def test_registration_without_a_network_through_the_command_line(run, brains, tmp_path):
    arguments = ("--model", "none", "--refine", 1, "--device", "cpu")
    assert run("register", brains.fixed, brains.moving, "-o", tmp_path, *arguments)[0] == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["similarity_after"] > 0.9
    found = load_transform(tmp_path / "transform.h5")
    error = (found(brains.points) - brains.truth(brains.points)).norm(dim=-1)
    assert error.mean() < 2  # of 20 mm; one pass a scale is little


@pytest.mark.slow
def test_another_contrast_is_detected_and_the_map_is_found(mni):
    """The moving image is inverted and moved."""
    pose, flow = demo.known_map(mni.grid)
    truth = pose @ flow
    moving = resample(mni, truth.inverse(), demo.moving_grid(pose, mni.grid.center_world))
    values = moving.normalized().values()
    inverted = Image(torch.where(values > 0.05, 1.05 - values, 0), moving.grid)
    found = api.register(mni, inverted, refine=0)
    assert len(found.notes) == 1
    assert found.notes[0].startswith("the contrasts differ: model brain-any-contrast, ")  # beyond a rough map
    points = mni.grid.points_world()[mni.data[:, 0] > 0.1][None]
    error = (found.transform(points) - truth(points)).norm(dim=-1)
    assert error.mean() < 1.0  # voxels are 2 mm; the pose and the flow move by 20 mm


def test_apply_gives_the_warped_image_again(run, brains, tmp_path):
    again, back = tmp_path / "again.nii.gz", tmp_path / "back.nii.gz"
    warped = load_image(brains.results / "warped.nii.gz").data
    # Our own file holds the map to rounding, that of other tools to hundredths of a millimetre.
    for name, tolerance in (("transform.h5", 0.05), ("transform.safetensors", 0.01)):
        transform = brains.results / name
        assert run("apply", transform, brains.moving, "--reference", brains.fixed, "-o", again)[0] == 0
        torch.testing.assert_close(load_image(again).data, warped, atol=tolerance, rtol=0)
    assert run("apply", transform, again, "--reference", brains.moving, "-o", back, "--inverse")[0] == 0
    moving, returned = (load_image(path).data.flatten() for path in (brains.moving, back))
    assert torch.corrcoef(torch.stack([moving, returned]))[0, 1] > 0.97


def test_labels_keep_their_ids_through_the_command_line(run, brains, tmp_path):
    moving = load_image(brains.moving)
    ids = Image((moving.data > 0.3).to(torch.int32) * (2**24 + 1), moving.grid)
    save_image(ids, tmp_path / "ids.nii.gz")
    for interpolation in ("nearest", "label"):
        warped = tmp_path / f"{interpolation}.nii.gz"
        arguments = ("--reference", brains.fixed, "-o", warped, "--interpolation", interpolation)
        assert run("apply", brains.results / "transform.h5", tmp_path / "ids.nii.gz", *arguments)[0] == 0
        assert set(load_image(warped).data.unique().tolist()) == {0, 2**24 + 1}


@pytest.mark.slow
def test_oblique_and_anisotropic_storage_gives_the_same_map(mni, model, brains):
    moving, points = load_image(brains.moving), brains.points
    reference = load_transform(brains.results / "transform.safetensors")(points)
    identity = AffineTransform.identity()
    for name, shape in (("oblique", (120, 125, 110)), ("anisotropic", (75, 115, 48))):
        grid = grid_around(shape, AFFINES[name] * 2, mni.grid.center_world[0].numpy())
        found = api.register(resample(mni, identity, grid), moving, model).transform(points)
        # Resampling to voxels of up to 4 mm changes the image.
        assert (found - reference).norm(dim=-1).mean() < 0.5


@pytest.mark.slow
def test_real_brains_of_other_people(data, model):
    """One pair of the labelled set, by the protocol behind the README's figures."""
    folder = data / "t1-labelled"
    fixed, moving = (load_image(folder / f"sub-0{k}_T1w.nii.gz") for k in (1, 2))
    labels = PairLabels(*(load_image(folder / f"sub-0{k}_labels.nii.gz") for k in (1, 2)))
    result = api.register(fixed, moving, model)
    figures = measure(result, labels, 0.0)[1]
    # Below the packaged weights' own figures on this pair, above what a lost stage would give.
    assert figures.dice_aseg > 0.81
    assert figures.dice_cortex > 0.60
    assert figures.folding_percent <= 0.05
    points = fixed.grid.points_world()[labels.fixed.data[:, 0] > 0][None, ::20]
    assert (result.inverse(result.transform(points)) - points).norm(dim=-1).mean() < 0.1


@pytest.mark.slow
def test_the_demo_measures_itself_against_the_truth_without_colin(run, mni, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "_colin27", lambda: None)
    monkeypatch.setattr(demo, "mni152", lambda: (mni, mni))
    code, out, _ = run("demo", "-o", tmp_path / "demo")
    assert code == 0
    assert {item.name for item in (tmp_path / "demo").iterdir()} == FILES | {"fixed.nii.gz", "moving.nii.gz"}
    assert "not installed" in out
    torch.testing.assert_close(load_image(tmp_path / "demo" / "fixed.nii.gz").data, mni.data)
    pose, flow = demo.known_map(mni.grid)
    moving = load_image(tmp_path / "demo" / "moving.nii.gz")
    back = resample(moving, pose @ flow, mni.grid).data
    assert torch.corrcoef(torch.stack([back.flatten(), mni.data.flatten()]))[0, 1] > 0.97
    summary = json.loads((tmp_path / "demo" / "summary.json").read_text())
    assert summary["files"] == {"fixed": "fixed.nii.gz", "moving": "moving.nii.gz"}
    assert float(out.split("truth: mean")[1].split("mm")[0]) < 0.7
