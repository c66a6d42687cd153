"""Brains that come with pip packages, and the command line run in this process."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from brains import inside, moved_brain

from patchmorph import catalogue, cli, demo
from patchmorph.images.volume import Image
from patchmorph.transforms.base import Transform


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
