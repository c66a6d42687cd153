"""Two synthetic images, and a training on them."""

import pytest
import yaml
from synthetic import AFFINES, grid_around, smooth_image
from tiny import CPU, MODEL, SPACINGS

from patchmorph.io.images import save_image
from patchmorph.training.cohort import Cohort
from patchmorph.training.config import Data
from patchmorph.training.subjects import Subject


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
def config_file(tmp_path, subjects):
    content = {
        "model": MODEL,
        "data": {"images": [str(subjects[0].image.parent / "*.nii")]},
        "optimization": {"steps": 6, "batch": 2, "warmup": 2},
        "run": {"output": "run", "log_every": 2, "checkpoint_every": 2},
    }
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
