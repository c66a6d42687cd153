"""Brains that come with pip packages, and the command line run in this process."""

from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from brains import inside, moved_brain

from patchmorph import catalogue, cli, demo
from patchmorph.images.volume import Image
from patchmorph.io.transforms.formats import save_transform
from patchmorph.transforms.base import AffineTransform, Transform


@dataclass(frozen=True)
class Brains:
    """MNI152 on disk, itself moved by a known map, and the folder that registering them left."""

    fixed: Path
    moving: Path
    results: Path
    truth: Transform
    points: torch.Tensor  # inside the fixed brain, RAS+ mm


@pytest.fixture(scope="session")
def mni() -> Image:
    """At 2 mm, which halves the time of every step at the images' own resolution."""
    return demo.mni152(resolution_mm=2)[0]


@pytest.fixture(scope="session")
def model():
    return catalogue.load_model("t1-brain", "cpu")


@pytest.fixture(scope="session")
def brains(mni, tmp_path_factory) -> Brains:
    folder = tmp_path_factory.mktemp("brains")
    fixed, moving, truth = moved_brain(mni, folder, smoothly=True)
    cli.app(["register", str(fixed), str(moving), "-o", str(folder / "results")], standalone_mode=False)
    return Brains(fixed, moving, folder / "results", truth, inside(mni))


@pytest.fixture
def refused(run, tmp_path, monkeypatch):
    """``refused(message, *arguments)``: the command ends with one line and status 2, and leaves no file."""
    monkeypatch.chdir(tmp_path)
    blob = np.zeros((20, 20, 20), np.uint8)
    blob[5:15, 5:15, 5:15] = 100
    nibabel.save(nibabel.Nifti1Image(blob, np.eye(4)), "good.nii.gz")
    save_transform(AffineTransform.translation(torch.tensor([[1.0, 2, 3]])), "shift.tfm")
    (tmp_path / "points.csv").write_text("x,y,z\n1,2,3\n")

    def command(message: str, *arguments) -> None:
        before = sorted(tmp_path.rglob("*"))
        status, _, error = run(*arguments)
        assert (status, error.count("\n"), error[:12]) == (2, 1, "patchmorph: "), error
        assert message in error
        assert sorted(tmp_path.rglob("*")) == before

    return command
