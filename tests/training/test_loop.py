import json

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import CPU

from patchmorph.errors import PatchMorphError
from patchmorph.training.config import load_config
from patchmorph.training.loop import learning_rate, train


def test_resume_gives_the_weights_of_an_uninterrupted_run(config_file):
    whole = load_config(config_file)
    train(whole, CPU)
    content = yaml.safe_load(config_file.read_text())
    content["run"]["output"] = "interrupted"
    content["run"]["minutes"] = 1e-9  # stops after every step
    config_file.write_text(yaml.safe_dump(content))
    interrupted = load_config(config_file)
    train(interrupted, CPU)
    folder = config_file.parent
    assert not (folder / "interrupted" / "model.safetensors").exists()
    while not (folder / "interrupted" / "model.safetensors").exists():
        train(interrupted, CPU, resume=True)
    expected, found = (load_file(folder / name / "model.safetensors") for name in ("run", "interrupted"))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    log = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [2, 4, 6]
    assert {"loss", "similarity/affine", "error_mm/1", "steps_per_second"} <= log[0].keys()


def test_an_output_folder_is_not_overwritten_and_resume_needs_a_checkpoint(config_file):
    config = load_config(config_file)
    with pytest.raises(PatchMorphError, match="needs a checkpoint, got none"):
        train(config, CPU, resume=True)
    train(config, CPU)
    with pytest.raises(PatchMorphError, match="must be new, or --resume given"):
        train(config, CPU)


def test_the_learning_rate_warms_up_and_decays(config_file):
    config = load_config(config_file).optimization.model_copy(update={"steps": 1000, "warmup": 100})
    rates = [learning_rate(step, config) for step in (0, 99, 500, 1000)]
    assert rates[0] < rates[1] > rates[2] > rates[3]
    assert rates[3] == pytest.approx(0.03 * config.learning_rate)


def test_missing_images_are_named(config_file):
    content = yaml.safe_load(config_file.read_text())
    content["data"]["images"] = ["nowhere/*.nii.gz"]
    config_file.write_text(yaml.safe_dump(content))
    before = set(config_file.parent.iterdir())
    with pytest.raises(PatchMorphError, match="got nothing for nowhere"):
        train(load_config(config_file), CPU)
    assert set(config_file.parent.iterdir()) == before
