"""From a folder of images to a model, and from a table of pairs to figures, through the command line."""

import csv
import json

import pytest
import torch
import yaml
from synthetic import AFFINES, grid_around, smooth_image

from patchmorph import api
from patchmorph.images.volume import Image
from patchmorph.io.images import save_image

CONFIG = {
    "model": {
        "patch_size": 16,
        "spacings_mm": [12.0, 6.0],
        "affine": {"name": "affine-encoder", "options": {"channels": [4, 8], "hidden": 8}},
        "dense": {"name": "unet", "options": {"encoder": [4, 8], "decoder": [8, 4]}},
    },
    "data": {"images": ["*_T1w.nii.gz"]},
    "optimization": {"steps": 3, "batch": 1},
    "run": {"output": "run", "log_every": 1},
}


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(("RAS", "LAS")):
        image = smooth_image(grid_around((38, 43, 35), AFFINES[name] * 4, (4 * number, 0, 0)))
        save_image(image, tmp_path / f"{number}_T1w.nii.gz")
        save_image(Image((image.data * 6).to(torch.int16), image.grid), tmp_path / f"{number}_labels.nii.gz")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (tmp_path / "pairs.csv").write_text(
        "fixed,moving,fixed_labels,moving_labels\n"
        "0_T1w.nii.gz,1_T1w.nii.gz,0_labels.nii.gz,1_labels.nii.gz\n"
        "1_T1w.nii.gz,0_T1w.nii.gz,1_labels.nii.gz,0_labels.nii.gz\n"
    )
    return tmp_path


@pytest.fixture(autouse=True)
def without_heads(monkeypatch):
    """No image shows a head: the network that would tell takes half of the time."""
    monkeypatch.setattr(api, "load_brain_mask", lambda device: None)


def test_a_trained_model_registers_and_is_measured(run, folder):
    assert run("train", folder / "config.yaml", "--device", "cpu")[0] == 0
    model = folder / "run" / "model.safetensors"
    options = ("--model", model, "--initial-transform", "centers")
    code, out, _ = run("evaluate", folder / "pairs.csv", "-o", folder / "figures", *options)
    assert code == 0
    assert "mean of 2 pairs" in out
    rows = list(csv.DictReader((folder / "figures" / "pairs.csv").read_text().splitlines()))
    summary = json.loads((folder / "figures" / "summary.json").read_text())
    assert [row["fixed"] for row in rows] == [str(folder / f"{k}_T1w.nii.gz") for k in (0, 1)]
    for name in ("dice", "ncc_after", "seconds", "folding_percent"):
        mean = sum(float(row[name]) for row in rows) / 2
        assert summary["mean"][name] == pytest.approx(mean)
    # Three steps teach nothing, but the centres of mass align two nearly equal ellipsoids.
    assert summary["mean"]["dice"] > 0.4
    assert "dice_aseg" not in summary["mean"]


def test_training_again_needs_resume(run, folder):
    assert run("train", folder / "config.yaml", "--device", "cpu")[0] == 0
    code, _, error = run("train", folder / "config.yaml", "--device", "cpu")
    assert code == 2
    assert "--resume" in error
    assert run("train", folder / "config.yaml", "--device", "cpu", "--resume")[0] == 0


def test_models_are_listed(run):
    code, out, _ = run("models")
    assert code == 0
    assert "t1-brain" in out
