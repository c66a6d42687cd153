"""What docs/train.md tells a reader to type works, on small synthetic brains."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from synthetic import AFFINES, grid_around, smooth_image
from tiny import MODEL

from patchmorph import api, catalogue
from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.networks.model import ModelSpec, PatchMorphModel
from patchmorph.registration.stages import pose
from patchmorph.training.config import TrainingConfig
from patchmorph.training.data.subjects import find_subjects

PAGE = (Path(__file__).parents[2] / "docs" / "train.md").read_text(encoding="utf-8")
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


@pytest.fixture(autouse=True)
def quick_registrations(monkeypatch):
    """No image shows a head, and none is turned: what would tell takes most of the time."""
    monkeypatch.setattr(api, "load_brain_mask", lambda device: None)
    monkeypatch.setattr(pose, "ROUNDS", 1)


def test_from_a_folder_of_images_to_a_registered_pair(run, folder, monkeypatch):
    """In this process: each command of its own would start Python for three seconds."""
    monkeypatch.chdir(folder)
    first, validation = (yaml.safe_load(block) for block in blocks("yaml")[:2])
    (folder / "training.yaml").write_text(yaml.safe_dump(merged(first, validation, SMALL)))
    commands = [line.split()[1:] for block in blocks("bash") for line in block.splitlines()]
    assert [command[0] for command in commands] == ["train", "train", "register", "evaluate", "train"]
    for command in commands[:-1]:
        assert run(*command)[0] == 0
    trained = catalogue.load_model("model/model.safetensors", "cpu")
    assert trained.spec.spacings_mm == MODEL["spacings_mm"]
    assert catalogue.load_model("model/best.safetensors", "cpu").spec == trained.spec
    steps = [json.loads(line) for line in (folder / "model" / "log.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in steps) == 2
    summary = json.loads((folder / "result" / "summary.json").read_text())
    assert summary["arguments"]["model"] == "model/model.safetensors"
    assert (summary["fixed"], summary["moving"]) == ("brains/sub-01.nii.gz", "brains/sub-02.nii.gz")
    figures = json.loads((folder / "figures" / "summary.json").read_text())
    assert figures["pairs"] == 1
    assert 0.4 < figures["mean"]["dice"] <= 1  # centres of mass align two nearly equal ellipsoids


def test_a_model_is_fine_tuned(run, folder, monkeypatch):
    """Here a small one in place of the packaged one."""
    monkeypatch.chdir(folder)
    torch.manual_seed(0)
    given = PatchMorphModel(ModelSpec.model_validate(MODEL))
    catalogue.save_model(given, folder / "packaged.safetensors")
    (block,) = [block for block in blocks("yaml") if "tuned" in block]
    content = merged(yaml.safe_load(block), {"optimization": SMALL["optimization"]})
    (folder / "tuning.yaml").write_text(yaml.safe_dump(content))
    (command,) = [line.split()[1:] for line in "".join(blocks("bash")).splitlines() if "--from" in line]
    assert command[-2:] == ["--from", catalogue.SAME_CONTRAST]
    assert run(*command[:-1], "packaged.safetensors")[0] == 0
    assert catalogue.load_model("tuned/model.safetensors", "cpu").spec == given.spec


@pytest.mark.parametrize("number", range(2, len(blocks("yaml"))))
def test_every_other_configuration_is_valid_and_finds_its_data(folder, number):
    first, part = (yaml.safe_load(blocks("yaml")[index]) for index in (0, number))
    config = TrainingConfig.model_validate(merged(first, part) | {"folder": folder})
    assert len(find_subjects(config)) == 2


def test_labels_and_landmarks_train(run, folder):
    first, supervised = (yaml.safe_load(blocks("yaml")[index]) for index in (0, 2))
    content = merged(first, supervised, SMALL, {"run": {"output": "supervised"}})
    (folder / "supervised.yaml").write_text(yaml.safe_dump(content))
    assert run("train", folder / "supervised.yaml")[0] == 0
    assert '"overlap/1"' in (folder / "supervised" / "log.jsonl").read_text()


def test_the_languages_of_the_page_are_those_that_are_run():
    assert set(re.findall(r"```(\w+)\n", PAGE)) == {"yaml", "csv", "bash", "text"}
    (line,) = [line for block in blocks("text") for line in block.splitlines()]
    assert line.startswith("torchrun ")  # tests/training/test_processes.py runs it
