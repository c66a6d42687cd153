"""What docs/train.md tells a reader to type works, on small synthetic brains."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from synthetic import AFFINES, grid_around, smooth_image
from tiny import MODEL

from patchmorph.io.images import save_image
from patchmorph.spatial.image import Image
from patchmorph.training.config import TrainingConfig
from patchmorph.training.subjects import find_subjects

PAGE = (Path(__file__).parents[2] / "docs" / "train.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
SMALL = {
    "model": {key: value for key, value in MODEL.items() if key != "dense"},
    "optimization": {"steps": 2, "batch": 1},
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def merged(*parts: dict) -> dict:
    """Sections of later parts on top of earlier ones; another source of data replaces the one before."""
    result: dict = {}
    for part in parts:
        for name, section in part.items():
            result[name] = {**result.get(name, {}), **section}
    sources = [name for name in ("bids", "manifest", "images") if result["data"].get(name)]
    for name in sources[1:]:
        del result["data"][name]
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that the page speaks of."""
    root = tmp_path_factory.mktemp("page")
    for number, name in enumerate(("RAS", "LPS")):
        brain = smooth_image(grid_around((38, 44, 36), AFFINES[name] * 4, (3 * number, 0, 0)))
        labels = Image((brain.data * 5).to(torch.int16), brain.grid)
        person = f"sub-0{number + 1}"
        for path in (f"brains/{person}", f"test/{'ab'[number]}", f"dataset/{person}/anat/{person}_T1w"):
            save_image(brain, root / f"{path}.nii.gz")
        for path in (f"labels/{person}", f"test/{'ab'[number]}_labels"):
            save_image(labels, root / f"{path}.nii.gz")
        save_image(Image((brain.data > 0.1).to(torch.uint8), brain.grid), root / f"masks/{person}.nii.gz")
        (root / "points").mkdir(exist_ok=True)
        (root / f"points/{person}.csv").write_text("name,x,y,z\ntop,0,0,40\n")
    pairs, subjects = blocks("csv")
    (root / "pairs.csv").write_text(pairs)
    (root / "subjects.csv").write_text(subjects)
    return root


def test_from_a_folder_of_images_to_a_registered_pair(folder):
    first, validation = (yaml.safe_load(block) for block in blocks("yaml")[:2])
    (folder / "training.yaml").write_text(yaml.safe_dump(merged(first, validation, SMALL)))
    commands = [line.split() for block in blocks("bash") for line in block.splitlines()]
    assert [command[1] for command in commands] == ["train", "train", "register", "evaluate"]
    for command in commands:
        subprocess.run([BIN / command[0], *command[1:]], cwd=folder, check=True, capture_output=True)
    for name in ("model/log.jsonl", "model/best.safetensors", "result/report.html", "figures/summary.json"):
        assert (folder / name).is_file(), name


@pytest.mark.parametrize("number", range(2, len(blocks("yaml"))))
def test_every_other_configuration_is_valid_and_finds_its_data(folder, number):
    first, part = (yaml.safe_load(blocks("yaml")[index]) for index in (0, number))
    config = TrainingConfig.model_validate(merged(first, part) | {"folder": folder})
    assert len(find_subjects(config)) == 2


def test_labels_and_landmarks_train(folder):
    first, supervised = (yaml.safe_load(blocks("yaml")[index]) for index in (0, 2))
    content = merged(first, supervised, SMALL, {"run": {"output": "supervised"}})
    (folder / "supervised.yaml").write_text(yaml.safe_dump(content))
    command = [BIN / "patchmorph", "train", "supervised.yaml"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    assert '"overlap/1"' in (folder / "supervised" / "log.jsonl").read_text()


def test_the_languages_of_the_page_are_those_that_are_run():
    assert set(re.findall(r"```(\w+)\n", PAGE)) == {"yaml", "csv", "bash", "text"}
    (line,) = [line for block in blocks("text") for line in block.splitlines()]
    assert line.startswith("torchrun ")  # tests/training/test_processes.py runs it
