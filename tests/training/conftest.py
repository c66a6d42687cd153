"""Two synthetic images, and a training on them."""

import shutil

import pytest
import torch
import yaml
from synthetic import AFFINES, grid_around, smooth_image
from tiny import CPU, MODEL, SPACINGS, config

from patchmorph.io.images import save_image
from patchmorph.networks.model import PatchMorphModel
from patchmorph.training.config import Data, load_config
from patchmorph.training.data.cohort import Cohort
from patchmorph.training.data.subjects import Subject
from patchmorph.training.loop import train


@pytest.fixture(scope="package")
def images():
    shapes = [((75, 86, 70), AFFINES["LAS"]), ((80, 88, 72), AFFINES["RAS"])]
    return [smooth_image(grid_around(shape, linear * 2, (5, -3, 4))) for shape, linear in shapes]


@pytest.fixture(scope="package")
def subjects(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("subjects")
    for number, image in enumerate(images):
        save_image(image, folder / f"{number}.nii")
    return [Subject(folder / f"{number}.nii") for number in range(len(images))]


@pytest.fixture(scope="package")
def cohort(subjects):
    return Cohort(subjects, SPACINGS, Data(images=["unused"]), CPU)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return PatchMorphModel(config().model)


@pytest.fixture(scope="package")
def content(subjects):
    """What the configuration file says."""
    return {
        "model": MODEL,
        "data": {"images": [str(subjects[0].image.parent / "*.nii")]},
        "optimization": {"steps": 6, "batch": 2, "warmup": 2},
        "run": {"output": "run", "log_every": 2, "checkpoint_every": 2},
    }


@pytest.fixture
def config_file(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def change(config_file):
    """Change sections of the configuration: ``change(run={"output": "other"})``."""

    def update(**sections):
        content = yaml.safe_load(config_file.read_text())
        for name, values in sections.items():
            content[name] = {**content.get(name, {}), **values}
        config_file.write_text(yaml.safe_dump(content))
        return config_file

    return update


@pytest.fixture
def quick(change):
    """The same for a model of one dense network on one scale: ten steps take a second."""

    def update(**sections):
        one_scale = {"spacings_mm": SPACINGS[:1], "affine": None}
        return load_config(change(**{**sections, "model": {**one_scale, **sections.get("model", {})}}))

    return update


@pytest.fixture(scope="package")
def finished(content, tmp_path_factory):
    """The folder of a whole training, with its configuration."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    train(load_config(folder / "config.yaml"), CPU)
    return folder


@pytest.fixture
def trained(finished, tmp_path, config_file):
    """A copy of that training's results beside ``config_file``, as if it had been trained here."""
    shutil.copytree(finished / "run", tmp_path / "run")
    return tmp_path / "run"
