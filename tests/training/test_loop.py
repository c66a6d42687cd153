import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from synthetic import AFFINES, grid_around, smooth_image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import CPU

from patchmorph import api
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.benchmark import evaluate
from patchmorph.evaluation.pairs import load_pairs
from patchmorph.io.images import load_image, save_image
from patchmorph.registration.register import register
from patchmorph.spatial.image import Image
from patchmorph.training import loop
from patchmorph.training.checkpoint import FILE
from patchmorph.training.config import load_config
from patchmorph.training.loop import learning_rate, train

PATCHMORPH = Path(sys.executable).parent / "patchmorph"


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def start(config_file, *options):
    command = [PATCHMORPH, "train", config_file, "--device", "cpu", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.02)


def test_training_starts_from_given_weights(config_file):
    """With a rate of nearly nothing the weights stay; those of other networks are refused."""
    content = yaml.safe_load(config_file.read_text())
    train(load_config(config_file), CPU)
    content["run"] |= {"output": "second", "weights": "run/model.safetensors"}
    content["optimization"] |= {"learning_rate": 1e-12, "weight_decay": 1e-12}
    content["model"]["repeats"] = [1, 2]  # looks share weights, so they may differ
    config_file.write_text(yaml.safe_dump(content))
    train(load_config(config_file), CPU)
    first, second = (load_file(config_file.parent / run / "model.safetensors") for run in ("run", "second"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-3, rtol=1e-3)  # stored as float16
    content["run"] |= {"output": "third", "weights": "t1-brain"}
    config_file.write_text(yaml.safe_dump(content))
    with pytest.raises(
        PatchMorphError, match=r"run\.weights must be of the configured networks, got t1-brain"
    ):
        train(load_config(config_file), CPU)


def test_a_frozen_affine_stage_keeps_the_weights_that_it_was_given(config_file, change):
    train(load_config(config_file), CPU)
    options = {"freeze_affine": True, "learning_rate": 1e-2}
    dense = {
        "name": "unet",
        "options": {"encoder": [4, 4], "decoder": [4, 4]},
    }  # other dense networks may follow
    change(run={"output": "second", "affine_weights": "run/model.safetensors"}, optimization=options)
    change(model={"dense": dense})
    train(load_config(config_file), CPU)
    first, second = (load_file(config_file.parent / run / "model.safetensors") for run in ("run", "second"))
    for name, tensor in first.items():
        assert not name.startswith("affine") or torch.equal(second[name], tensor)
    assert not any("affine" in name for line in log(config_file.parent / "second") for name in line)
    train(load_config(change(optimization={"steps": 8})), CPU, resume=True)  # moments of trained weights only
    change(run={"output": "third", "affine_weights": "t1-brain"})
    with pytest.raises(
        PatchMorphError, match=r"run\.affine_weights must be of the configured network, got t1-"
    ):
        train(load_config(config_file), CPU)


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
    lines = log(folder / "run")
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert {"loss", "similarity/affine", "error_mm/1", "gradient_norm", "steps_per_second"} <= lines[0].keys()
    board = EventAccumulator(str(folder / "run" / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == [2, 4, 6]
    assert board.Scalars("loss")[0].value == pytest.approx(lines[0]["loss"], abs=1e-4)


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


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "terminated"])
def test_an_interrupted_training_loses_no_step(change, tmp_path, signal_):
    file = change(optimization={"steps": 100000}, run={"log_every": 1, "checkpoint_every": 100000})
    process = start(file)
    wait_for(lambda: (tmp_path / "run" / "log.jsonl").exists() and len(log(tmp_path / "run")) > 2, process)
    process.send_signal(signal_)
    output, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert "--resume goes on" in output
    done = log(tmp_path / "run")[-1]["step"]
    training = loop.Training(load_config(file), CPU, loop.PartialState(cpu=True), tmp_path / "run")
    training.state.load(tmp_path / "run")
    assert training.state.step == done


def test_a_killed_training_goes_on_from_its_last_checkpoint(change, tmp_path):
    file = change(optimization={"steps": 12}, run={"log_every": 1, "checkpoint_every": 4})
    process = start(file)
    wait_for(lambda: (tmp_path / "run" / FILE).exists() and len(log(tmp_path / "run")) > 4, process)
    process.kill()
    process.communicate(timeout=60)
    with (tmp_path / "run" / "log.jsonl").open("a") as file_:
        file_.write('{"step": 99, "loss"')  # as a kill may leave it
    train(load_config(file), CPU, resume=True)
    assert [line["step"] for line in log(tmp_path / "run")] == list(range(1, 13))
    whole = load_config(change(run={"output": "whole"}))
    train(whole, CPU)
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_full_disk_leaves_the_checkpoint_before_it(change, tmp_path):
    file = change(run={"checkpoint_every": 2, "minutes": 1e-9})
    train(load_config(file), CPU)
    before = (tmp_path / "run" / FILE).read_bytes()
    limited = ["bash", "-c", f"ulimit -f {len(before) // 1024 // 2}; exec {PATCHMORPH} train {file} --resume"]
    done = subprocess.run([*limited], capture_output=True, text=True)
    assert done.returncode == 2
    assert "output must be in a place that can be written" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert (tmp_path / "run" / FILE).read_bytes() == before
    assert not list((tmp_path / "run").glob(".unfinished*"))


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_training_that_is_not_finite_stops_and_names_the_pair(config_file, monkeypatch, tmp_path, where):
    honest = loop.add_gradients

    def broken(model, cohort, drawn, config):
        report = honest(model, cohort, drawn, config)
        broken.calls += 1
        if broken.calls == 3 and where == "loss":
            broken.pair = [cohort.subject(int(k[1])).image for k in (drawn.fixed_index, drawn.moving_index)]
            report.losses[1] = float("nan")
        elif broken.calls == 3:
            broken.pair = [cohort.subject(int(drawn.fixed_index[0])).image]
            next(model.parameters()).grad.fill_(float("inf"))
        return report

    broken.calls = 0
    monkeypatch.setattr(loop, "add_gradients", broken)
    with pytest.raises(PatchMorphError, match=f"{where} must stay finite, got (nan|inf) at step 3") as error:
        train(load_config(config_file), CPU)
    assert all(str(path) in str(error.value) for path in broken.pair)
    # The checkpoint of step 2 is not overwritten by weights that are lost.
    training = loop.Training(load_config(config_file), CPU, loop.PartialState(cpu=True), tmp_path / "run")
    training.state.load(tmp_path / "run")
    assert training.state.step == 2


def test_validation_measures_labelled_pairs_and_keeps_the_best_model(change, tmp_path, subjects):
    for number, name in enumerate(("RAS", "LPS")):
        brain = smooth_image(grid_around((38, 44, 36), AFFINES[name] * 4, (3 * number, 0, 0)))
        save_image(brain, tmp_path / f"{number}.nii")
        save_image(Image((brain.data * 5).to(torch.int16), brain.grid), tmp_path / f"{number}_labels.nii")
    rows = "fixed,moving,fixed_labels,moving_labels\n0.nii,1.nii,0_labels.nii,1_labels.nii\n"
    (tmp_path / "pairs.csv").write_text(rows)
    file = change(validation={"pairs": "pairs.csv", "every": 2})
    train(load_config(file), CPU)
    lines = [line for line in log(tmp_path / "run") if "validation/dice" in line]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert all({"validation/dice", "validation/folding_percent"} <= line.keys() for line in lines)
    best = api.load_model(tmp_path / "run" / "best.safetensors", "cpu")
    (pair,) = load_pairs(tmp_path / "pairs.csv")
    (again,) = evaluate([pair], lambda fixed, moving: register(fixed, moving, best))
    assert again.dice == pytest.approx(max(line["validation/dice"] for line in lines), abs=1e-4)


def test_validation_needs_labels(change, tmp_path, subjects):
    (tmp_path / "pairs.csv").write_text(f"fixed,moving\n{subjects[0].image},{subjects[1].image}\n")
    with pytest.raises(PatchMorphError, match="validation pairs must have labels"):
        train(load_config(change(validation={"pairs": "pairs.csv"})), CPU)
    assert not (tmp_path / "run").exists()


def test_a_small_cache_trains_and_resumes(change, tmp_path, subjects):
    """Subjects change places in memory while training goes on; a resume finds them where they were."""
    copies = [load_image(subjects[k % 2].image) for k in range(3)]
    for number, image in enumerate(copies):
        save_image(image, tmp_path / "many" / f"{number}.nii")
    slot = 1.4e6 / 2**30  # one subject's two levels, at most
    few = {"images": ["many/*.nii"], "cache_gib": 2.2 * slot, "refresh_every": 2}
    train(load_config(change(data=few, run={"output": "whole"})), CPU)
    parts = change(run={"output": "parts", "minutes": 1e-9})
    train(load_config(parts), CPU)
    while not (tmp_path / "parts" / "model.safetensors").exists():
        train(load_config(parts), CPU, resume=True)
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_images_of_another_size_than_the_spacings_are_for_are_refused(change):
    file = change(model={"reference_radius_mm": 6.0})
    with pytest.raises(PatchMorphError, match=r"reference_radius_mm must be near the images' own, 5\d"):
        train(load_config(file), CPU)


def test_fewer_steps_than_are_done_are_refused(change):
    train(load_config(change()), CPU)
    with pytest.raises(PatchMorphError, match=r"steps must be at least the 6 that are done, got 4"):
        train(load_config(change(optimization={"steps": 4})), CPU, resume=True)


def test_networks_that_break_the_contract_show_before_anything_is_read(change, tmp_path):
    options = {"in_channels": 2, "out_channels": 4, "kernel_size": 1}
    file = change(
        model={"dense": {"name": "torch.nn:Conv3d", "options": options}}, data={"images": ["no.nii"]}
    )
    (tmp_path / "no.nii").write_text("no image")
    with pytest.raises(PatchMorphError, match="must answer three channels"):
        train(load_config(file), CPU)
