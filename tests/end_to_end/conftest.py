"""Brains that come with pip packages, and the command line run in this process."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from patchmorph import api, cli, demo
from patchmorph.io.images import save_image
from patchmorph.spatial.image import Image
from patchmorph.transforms.base import Transform
from patchmorph.transforms.resample import resample


@dataclass(frozen=True)
class Brains:
    """MNI152 on disk, itself moved by a known map, and the folder that registering them left."""

    fixed: Path
    moving: Path
    results: Path
    truth: Transform
    points: torch.Tensor  # inside the fixed brain, RAS+ mm


@pytest.fixture
def run(monkeypatch, capfd):
    """Run ``patchmorph ARGUMENTS``: exit status, standard output, standard error."""

    def command(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["patchmorph", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            sys.exit(cli.main())
        captured = capfd.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return command


@pytest.fixture(scope="session")
def mni() -> Image:
    """At 2 mm, which halves the time of all that is done at the images' own resolution."""
    return demo.mni152(resolution_mm=2)[0]


@pytest.fixture(scope="session")
def model():
    return api.load_model("t1-brain", "cpu")


def moved_brain(mni: Image, folder: Path, smoothly: bool) -> tuple[Path, Path, Transform]:
    """Write MNI152 and itself under a known map; both paths and the map, fixed → moving world."""
    pose, flow = demo.known_map(mni.grid)
    truth = pose @ flow if smoothly else pose
    moving = resample(mni, truth.inverse(), demo.moving_grid(pose, mni.grid.center_world))
    save_image(mni, folder / "fixed.nii.gz")
    save_image(moving, folder / "moving.nii.gz")
    return folder / "fixed.nii.gz", folder / "moving.nii.gz", truth


@pytest.fixture(scope="session", params=["affine", "affine and smooth"])
def brains(request, mni, tmp_path_factory) -> Brains:
    folder = tmp_path_factory.mktemp("brains")
    fixed, moving, truth = moved_brain(mni, folder, request.param == "affine and smooth")
    cli.app(["register", str(fixed), str(moving), "-o", str(folder / "results")], standalone_mode=False)
    points = mni.grid.points_world()[:, ::2, ::2, ::2][mni.data[:, 0, ::2, ::2, ::2] > 0.1][None]
    return Brains(fixed, moving, folder / "results", truth, points)


@pytest.fixture
def brain_files(mni, tmp_path) -> Path:
    """A folder with ``fixed.nii.gz``, ``moving.nii.gz`` and ``labels.nii.gz``, as the documents name them."""
    _, moving, _ = moved_brain(mni, tmp_path, smoothly=False)
    (tmp_path / "labels.nii.gz").symlink_to(moving)
    return tmp_path
