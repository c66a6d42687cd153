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
def run(monkeypatch, capsys):
    """Run ``patchmorph ARGUMENTS``: exit status, standard output, standard error."""

    def command(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["patchmorph", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            sys.exit(cli.main())
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return command


@pytest.fixture(scope="session")
def mni() -> Image:
    """At 2 mm, which halves the time of all that is done at the images' own resolution."""
    return demo.mni152(resolution_mm=2)[0]


@pytest.fixture(scope="session")
def model():
    return api.load_model("t1-brain", "cpu")


@pytest.fixture(scope="session", params=["affine", "affine and smooth"])
def brains(request, mni, tmp_path_factory) -> Brains:
    pose, flow = demo.known_map(mni.grid)
    truth = pose if request.param == "affine" else pose @ flow
    moving = resample(mni, truth.inverse(), demo.moving_grid(pose, mni.grid.center_world))
    folder = tmp_path_factory.mktemp("brains")
    save_image(mni, folder / "fixed.nii.gz")
    save_image(moving, folder / "moving.nii.gz")
    paths = (folder / "fixed.nii.gz", folder / "moving.nii.gz")
    cli.app(["register", *map(str, paths), "-o", str(folder / "results")], standalone_mode=False)
    points = mni.grid.points_world()[:, ::2, ::2, ::2][mni.data[:, 0, ::2, ::2, ::2] > 0.1][None]
    return Brains(*paths, folder / "results", truth, points)
