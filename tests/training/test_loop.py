import json
import math
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import PartialState
from safetensors.torch import load_file
from synthetic import AFFINES, grid_around, smooth_image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import CPU, UNET, config

from patchmorph import api
from patchmorph.catalogue import save_model
from patchmorph.cli import main
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.benchmark import PairResult, evaluate, loading
from patchmorph.evaluation.pairs import load_pairs
from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.networks.model import PatchMorphModel
from patchmorph.registration.pipeline import register_images
from patchmorph.training import loop, validation
from patchmorph.training.augmentation.draw import Draw
from patchmorph.training.checkpoint import FILE, TrainingState
from patchmorph.training.config import Optimization, load_config
from patchmorph.training.interruption import Interruption, deferred
from patchmorph.training.loop import Training, train
from patchmorph.training.record import Record

SLOT_GIB = 14 * 15 * 12 / 2**30
"""The larger subject's level of 12 mm."""
PATCHMORPH = Path(sys.executable).parent / "patchmorph"


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def start(config_file, *options):
    command = [PATCHMORPH, "train", config_file, "--device", "cpu", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process, seconds=300):
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "nothing happened"
        time.sleep(0.02)


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(found, expected) -> None:
    found, expected = weights(found), weights(expected)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def begin(config) -> Training:
    """A training before its first step."""
    return Training(config, CPU, PartialState(cpu=True), config.folder / config.run.output)


@pytest.fixture
def drawn(monkeypatch) -> list[Draw]:
    """Every draw of the trainings of a test."""
    draws, sample = [], Draw.sample

    def keep(*arguments, **options):
        draws.append(sample(*arguments, **options))
        return draws[-1]

    monkeypatch.setattr(Draw, "sample", keep)
    return draws


def test_training_starts_from_given_weights(trained, config_file):
    """With a rate of nearly nothing the weights stay; those of other networks are refused."""
    content = yaml.safe_load(config_file.read_text())
    content["run"] |= {"output": "second", "weights": "run/model.safetensors"}
    content["optimization"] |= {"learning_rate": 1e-12, "weight_decay": 1e-12, "steps": 1}
    content["model"]["passes"] = [1, 2]  # looks share weights, so they may differ
    config_file.write_text(yaml.safe_dump(content))
    train(load_config(config_file), CPU)
    first, second = weights(trained), weights(config_file.parent / "second")
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-3, rtol=1e-3)  # stored as float16
    content["run"] |= {"output": "third", "weights": "t1-brain"}
    config_file.write_text(yaml.safe_dump(content))
    with pytest.raises(
        PatchMorphError, match=r"run\.weights must be of the configured networks, got t1-brain"
    ):
        train(load_config(config_file), CPU)


def test_the_command_fine_tunes_a_model(trained, config_file, content, run):
    """The networks come from the model; with a rate of nearly nothing its weights stay."""
    slow = {"learning_rate": 1e-12, "weight_decay": 1e-12, "steps": 1, "batch": 1}
    sections = {"data": content["data"], "run": {"output": "tuned"}, "optimization": slow}
    config_file.write_text(yaml.safe_dump(sections))
    code, _, error = run("train", config_file, "--from", trained / "model.safetensors", "--device", "cpu")
    assert (code, error) == (0, "")
    first, tuned = weights(trained), weights(config_file.parent / "tuned")
    assert first.keys() == tuned.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tuned[name], tensor, atol=1e-3, rtol=1e-3)  # stored as float16


def test_a_frozen_affine_stage_keeps_the_weights_that_it_was_given(trained, config_file, change):
    options = {"freeze_affine": True, "learning_rate": 1e-2}
    dense = {"name": "unet", "options": {"encoder": [4, 4], "decoder": [4, 4]}}  # others may follow
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
        PatchMorphError, match=r"run\.affine_weights must be of the configured networks, got t1-"
    ):
        train(load_config(config_file), CPU)


def test_files_of_initial_weights_may_name_classes_of_the_configuration_or_trusted_ones(change, tmp_path):
    conv = {"name": "torch.nn:Conv3d", "options": {"in_channels": 2, "out_channels": 3, "kernel_size": 1}}
    save_model(PatchMorphModel(config(model={"dense": conv}).model), tmp_path / "conv.safetensors")
    once = {"steps": 1}
    train(
        load_config(
            change(
                model={"dense": conv}, run={"output": "a", "weights": "conv.safetensors"}, optimization=once
            )
        ),
        CPU,
    )
    run = {"output": "b", "weights": None, "affine_weights": "conv.safetensors"}
    other = load_config(change(model={"dense": UNET}, run=run))
    with pytest.raises(PatchMorphError, match=r"must name networks on our list, got torch\.nn:Conv3d in"):
        train(other, CPU)
    train(other, CPU, trust=["torch.nn:Conv3d"])


def test_resume_gives_the_weights_of_an_uninterrupted_run(finished, change, tmp_path):
    interrupted = load_config(change(run={"output": "interrupted", "minutes": 1e-9}))  # stops every step
    train(interrupted, CPU)
    assert not (tmp_path / "interrupted" / "model.safetensors").exists()
    while not (tmp_path / "interrupted" / "model.safetensors").exists():
        train(interrupted, CPU, resume=True)
    assert_same_weights(tmp_path / "interrupted", finished / "run")
    (tmp_path / "interrupted" / "model.safetensors").unlink()
    train(interrupted, CPU, resume=True)  # nothing is left to do but to write it
    assert_same_weights(tmp_path / "interrupted", finished / "run")


def test_the_log_and_the_board_have_the_means_of_the_same_steps(finished):
    lines = log(finished / "run")
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert {"loss", "similarity/affine", "error_mm/1", "gradient_norm", "steps_per_second"} <= lines[0].keys()
    board = EventAccumulator(str(finished / "run" / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == [2, 4, 6]
    for name in ("loss", "learning_rate"):
        found = [event.value for event in board.Scalars(name)]
        assert found == pytest.approx([line[name] for line in lines], abs=1e-4)


def test_an_output_folder_is_not_overwritten_and_resume_needs_a_checkpoint(trained, change):
    with pytest.raises(PatchMorphError, match="must be new, or --resume given"):
        train(load_config(change()), CPU)
    with pytest.raises(PatchMorphError, match="needs a checkpoint, got none"):
        train(load_config(change(run={"output": "other"})), CPU, resume=True)


def test_the_learning_rate_warms_up_along_a_line_and_decays_along_a_cosine():
    config = Optimization(steps=1000, warmup=100, learning_rate=2.0)
    cosines = {0: 1.0, 250: 0.5 + 0.5**1.5, 500: 0.5, 750: 0.5 - 0.5**1.5, 1000: 0.0}
    decayed = {step: 2 * (0.03 + 0.97 * cosine) for step, cosine in cosines.items()}
    for step in (250, 500, 750, 1000):
        assert config.rate(step) == pytest.approx(decayed[step])
    assert config.rate(0) == pytest.approx(decayed[0] / 100)
    # The cosine has hardly begun to fall when half of the warm-up, and all of it, is done.
    assert config.rate(49) == pytest.approx(2 * 0.5, rel=0.01)
    assert config.rate(99) == pytest.approx(2 * (0.03 + 0.97 * 0.5 * (1 + math.cos(0.099 * math.pi))))
    assert config.rate(100) < config.rate(99)
    assert config.model_copy(update={"warmup": 0}).rate(0) == pytest.approx(2.0)


def test_each_step_takes_the_rate_that_belongs_to_it(finished):
    """Step n is the n-th: its rate is that of n − 1 steps done."""
    config = load_config(finished / "config.yaml").optimization
    rates = [line["learning_rate"] for line in log(finished / "run")]
    assert rates == pytest.approx([config.rate(step) for step in (1, 3, 5)], abs=1e-8)


def test_weights_move_by_the_rate_of_their_step(quick):
    """The first step of Adam is the rate times the sign of the gradient, wherever that is not tiny."""
    config = quick(
        optimization={"steps": 1, "warmup": 4, "learning_rate": 0.004, "weight_decay": 1e-12},
        run={"checkpoint_every": 1},
    )
    training = begin(config)
    before = [parameter.detach().clone() for parameter in training.state.model.parameters()]
    training.run(Interruption())
    moved = torch.cat(
        [(a - b).abs().flatten() for a, b in zip(training.state.model.parameters(), before, strict=True)]
    )
    assert moved.median().item() == pytest.approx(0.004 / 4, rel=0.01)
    assert moved.max().item() <= 0.004 / 4 * 1.01


def test_gradients_are_clipped_before_the_step_and_logged_as_they_were(quick, tmp_path):
    """The first moment after one step is a tenth of the clipped gradient."""
    training = begin(quick(optimization={"steps": 1, "clip": 0.02}, run={"log_every": 1}))
    training.run(Interruption())
    moments = [state["exp_avg"].flatten() for state in training.state.optimizer.state.values()]
    assert torch.cat(moments).norm().item() == pytest.approx(0.1 * 0.02, rel=1e-3)
    assert log(tmp_path / "run")[0]["gradient_norm"] > 0.1


@pytest.mark.parametrize("shares", [(1.0, 0.0), (0.0, 1.0)])
def test_each_half_of_the_training_has_its_share_of_pairs_of_one_person(quick, drawn, shares):
    """Of five steps three begin before the half of them are done."""
    config = quick(
        optimization={"steps": 5, "batch": 8}, pairs={"same_person": list(shares)}, run={"log_every": 5}
    )
    train(config, CPU)
    same = [(draw.fixed_index == draw.moving_index).float().mean().item() for draw in drawn]
    assert len(same) == 5
    for share, wanted in zip(same, [shares[0]] * 3 + [shares[1]] * 2, strict=True):
        # Of two subjects the other is the same by chance in half of the pairs: all eight in one of 256 steps.
        assert (share == 1) == (wanted == 1)


def test_the_seed_decides_on_weights_and_draws_and_nothing_else_does(quick, drawn):
    def first_step(seed, output):
        torch.manual_seed(seed + 17)  # what happened before in the process
        training = begin(quick(optimization={"steps": 1}, run={"seed": seed, "output": output}))
        initial = {name: value.clone() for name, value in training.state.model.state_dict().items()}
        training.run(Interruption())
        return initial, drawn.pop()

    (one, one_draw), (same, same_draw), (other, other_draw) = (
        first_step(seed, output) for seed, output in ((3, "a"), (3, "b"), (4, "c"))
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert torch.equal(one_draw.affine, same_draw.affine)
    assert torch.equal(one_draw.fixed_index, same_draw.fixed_index)
    # Biases and norms begin as constants or are drawn; convolutions are drawn.
    kernels = [name for name, value in one.items() if value.ndim == 5]
    assert kernels
    assert not any(torch.equal(one[name], other[name]) for name in kernels)
    assert not torch.equal(one_draw.affine, other_draw.affine)


def test_the_seed_decides_who_is_in_a_small_cache_first(quick, tmp_path, subjects):
    for number in range(6):
        shutil.copy(subjects[0].image, tmp_path / f"{number}.nii")
    few = {"images": ["*.nii"], "cache_gib": 2.5 * SLOT_GIB}

    def first(seed):
        cohort = begin(quick(data=few, run={"seed": seed})).cohort
        assert len(cohort) == 2
        return [cohort.subject(slot).image.name for slot in range(2)]

    orders = [first(seed) for seed in (0, 1, 2, 0)]
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) > 1


def test_accumulated_batches_are_one_larger_batch(quick, tmp_path):
    """The mean of two means is the mean; float32 sums in another order drift apart by rounding."""
    run = {"log_every": 1}
    train(quick(optimization={"steps": 3, "batch": 4}, run={"output": "large", **run}), CPU)
    train(quick(optimization={"batch": 2, "accumulate": 2}, run={"output": "accumulated", **run}), CPU)
    for name in ("loss", "gradient_norm"):
        large, accumulated = (
            [line[name] for line in log(tmp_path / run)] for run in ("large", "accumulated")
        )
        assert accumulated == pytest.approx(large, rel=1e-3)


@pytest.mark.parametrize("stages", [[], [0]])
def test_stages_to_recompute_run_again_in_the_backward_pass(quick, stages):
    training = begin(quick(optimization={"recompute": stages, "steps": 1}))
    calls = []
    convolutions = [m for m in training.state.model.modules() if isinstance(m, torch.nn.Conv3d)]
    for convolution in convolutions:
        convolution.register_forward_hook(lambda *_: calls.append(1))
    training.run(Interruption())
    assert (len(calls) > 1.5 * len(convolutions)) == bool(stages)


def test_settings_of_the_optimizer_come_from_the_configuration(quick):
    training = begin(quick(optimization={"weight_decay": 0.125}))
    (group,) = training.state.optimizer.param_groups
    assert group["weight_decay"] == 0.125
    assert len(group["params"]) == len(list(training.state.model.parameters()))
    assert training.state.model.training


def test_lines_and_checkpoints_come_when_they_are_due(quick, tmp_path, monkeypatch):
    """Also after the last step, whatever its number."""
    saved = []
    save = TrainingState.save
    monkeypatch.setattr(TrainingState, "save", lambda state, at: (saved.append(state.step), save(state, at)))
    train(quick(optimization={"steps": 7}, run={"log_every": 3, "checkpoint_every": 2}), CPU)
    assert [line["step"] for line in log(tmp_path / "run")] == [3, 6, 7]
    assert saved == [2, 4, 6, 7]
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["optimization"]["steps"] == 7
    assert stored["run"]["log_every"] == 3


@pytest.mark.parametrize("library", ["accelerate", "tensorboard"])
def test_a_training_without_its_libraries_is_one_line(config_file, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    message = rf"{library} must be installed \(pip install 'patchmorph\[train\]'\)"
    with pytest.raises(PatchMorphError, match=message):
        train(load_config(config_file), CPU)


def test_missing_images_are_named(config_file):
    content = yaml.safe_load(config_file.read_text())
    content["data"]["images"] = ["nowhere/*.nii.gz"]
    config_file.write_text(yaml.safe_dump(content))
    before = set(config_file.parent.iterdir())
    with pytest.raises(PatchMorphError, match="got nothing for nowhere"):
        train(load_config(config_file), CPU)
    assert set(config_file.parent.iterdir()) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "terminated"])
def test_a_signal_ends_a_training_after_its_step(quick, tmp_path, monkeypatch, capsys, number):
    """As the command: it ends well, and no step is lost."""
    config = quick(optimization={"steps": 50}, run={"log_every": 1, "checkpoint_every": 100})
    write = Record.write

    def write_and_ask(record, step, figures):
        write(record, step, figures)
        if step == 3:
            signal.raise_signal(number)

    monkeypatch.setattr(Record, "write", write_and_ask)
    monkeypatch.setattr(
        sys, "argv", ["patchmorph", "train", str(tmp_path / "config.yaml"), "--device", "cpu"]
    )
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not ended.value.code
    assert [line["step"] for line in log(tmp_path / "run")] == [1, 2, 3, 4]
    training = begin(config)
    training.state.load(tmp_path / "run")
    assert training.state.step == 4
    assert "stopped with a checkpoint after step 4; --resume goes on" in capsys.readouterr().out


def test_a_second_signal_acts_at_once_and_handlers_come_back():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("outer"))
    outer = signal.getsignal(signal.SIGTERM)
    try:
        with deferred() as interruption:
            assert not interruption.asked
            signal.raise_signal(signal.SIGTERM)
            assert interruption.asked
            assert seen == []
            signal.raise_signal(signal.SIGTERM)
            assert seen == ["outer"]
        assert signal.getsignal(signal.SIGTERM) is outer
        with deferred() as interruption:
            pass
        assert signal.getsignal(signal.SIGTERM) is outer
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_killed_training_goes_on_from_its_last_checkpoint(change, tmp_path):
    file = change(optimization={"steps": 12}, run={"log_every": 1, "checkpoint_every": 4})
    process = start(file)
    wait_for(lambda: (tmp_path / "run" / FILE).exists() and len(log(tmp_path / "run")) > 4, process)
    process.kill()
    process.communicate(timeout=300)
    with (tmp_path / "run" / "log.jsonl").open("a") as file_:
        file_.write('{"step": 99, "loss"')  # as a kill may leave it
    train(load_config(file), CPU, resume=True)
    assert [line["step"] for line in log(tmp_path / "run")] == list(range(1, 13))
    train(load_config(change(run={"output": "whole"})), CPU)
    assert_same_weights(tmp_path / "run", tmp_path / "whole")


def test_a_training_that_ended_between_its_last_two_files_is_finished_by_the_next_run(
    quick, monkeypatch, tmp_path
):
    config = quick(optimization={"steps": 2})

    def ended(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name, kind in (("save", TrainingState), ("save_model", loop)):
        with monkeypatch.context() as patch:
            patch.setattr(kind, name, ended)
            with pytest.raises(KeyboardInterrupt):
                train(config, CPU)
        train(config, CPU, resume=(tmp_path / "run" / FILE).exists())
        assert (tmp_path / "run" / "model.safetensors").exists()
        shutil.rmtree(tmp_path / "run")


def test_a_full_disk_leaves_the_checkpoint_before_it(change, tmp_path):
    config = load_config(change(run={"checkpoint_every": 2, "minutes": 1e-9}))
    train(config, CPU)
    before = (tmp_path / "run" / FILE).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(PatchMorphError, match="output must be in a place that can be written") as error:
            train(config, CPU, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(str(error.value).splitlines()) == 1
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
    training = begin(load_config(config_file))
    training.state.load(tmp_path / "run")
    assert training.state.step == 2


@pytest.fixture
def labelled_pair(tmp_path):
    """A table of one pair of small brains with labels."""
    for number, name in enumerate(("RAS", "LPS")):
        brain = smooth_image(grid_around((30, 35, 29), AFFINES[name] * 5, (3 * number, 0, 0)))
        save_image(brain, tmp_path / f"{number}.nii")
        save_image(Image((brain.data * 5).to(torch.int16), brain.grid), tmp_path / f"{number}_labels.nii")
    rows = "fixed,moving,fixed_labels,moving_labels\n0.nii,1.nii,0_labels.nii,1_labels.nii\n"
    (tmp_path / "pairs.csv").write_text(rows)
    return tmp_path / "pairs.csv"


def test_validation_measures_labelled_pairs_with_the_weights_of_its_step(quick, tmp_path, labelled_pair):
    train(quick(optimization={"steps": 1}, validation={"pairs": "pairs.csv", "every": 1}), CPU)
    (line,) = [line for line in log(tmp_path / "run") if "validation/dice" in line]
    assert line["step"] == 1
    assert "validation/folding_percent" in line
    best = api.load_model(tmp_path / "run" / "best.safetensors", "cpu")
    (again,) = evaluate(
        load_pairs(labelled_pair), loading(lambda fixed, moving: register_images(fixed, moving, best))
    )
    assert again.dice == pytest.approx(line["validation/dice"], abs=1e-4)


def test_the_best_model_is_the_one_of_the_best_validation_also_after_a_resume(
    quick, tmp_path, labelled_pair, monkeypatch
):
    dices = iter([0.3, 0.6, 0.8, 0.7, 0.75])  # the first: one pair is measured before the training begins
    started, validated = [], []
    initialize = Training.__init__

    def keep(training, *arguments, **options):
        initialize(training, *arguments, **options)
        started.append(training)

    def evaluated(pair):
        for training in started[-1:]:
            weights = training.state.model.state_dict()
            validated.append({name: value.clone() for name, value in weights.items()})
        return PairResult("a", "b", 1.0, 0.5, 0.9, 0.0, 0.1, dice=next(dices))

    monkeypatch.setattr(Training, "__init__", keep)
    monkeypatch.setattr(validation, "evaluate_pair", evaluated)
    checks = {"validation": {"pairs": "pairs.csv", "every": 1}, "run": {"checkpoint_every": 100}}
    fast = {"learning_rate": 0.01, "warmup": 0}  # models of two steps differ
    saved, save = [], TrainingState.save
    monkeypatch.setattr(TrainingState, "save", lambda state, at: (saved.append(state.step), save(state, at)))
    train(quick(optimization={"steps": 4, **fast}, **checks), CPU)
    dice = [line["validation/dice"] for line in log(tmp_path / "run") if "validation/dice" in line]
    assert dice == [0.6, 0.8, 0.7, 0.75]
    # A checkpoint belongs to every best model, so that a killed training knows how good it was.
    assert saved == [1, 2, 4]
    best = load_file(tmp_path / "run" / "best.safetensors")
    for name, value in validated[1].items():
        torch.testing.assert_close(best[name].float(), value, atol=1e-3, rtol=1e-3)  # stored as float16
    assert any((best[name].float() - value).abs().max() > 1e-3 for name, value in validated[2].items())
    dices = iter([0.9, 0.78])
    before = (tmp_path / "run" / "best.safetensors").read_bytes()
    train(quick(optimization={"steps": 5}, **checks), CPU, resume=True)
    assert (tmp_path / "run" / "best.safetensors").read_bytes() == before
    dices = iter([0.9, 0.85])
    train(quick(optimization={"steps": 6}, **checks), CPU, resume=True)
    assert (tmp_path / "run" / "best.safetensors").read_bytes() != before


def test_validation_needs_labels(change, tmp_path, subjects):
    (tmp_path / "pairs.csv").write_text(f"fixed,moving\n{subjects[0].image},{subjects[1].image}\n")
    with pytest.raises(PatchMorphError, match="validation pairs must have labels"):
        train(load_config(change(validation={"pairs": "pairs.csv"})), CPU)
    assert not (tmp_path / "run").exists()


def test_a_small_cache_trains_and_resumes(quick, tmp_path, subjects):
    """Subjects change places in memory while training goes on; a resume finds them where they were."""
    (tmp_path / "many").mkdir()
    for number in range(3):
        shutil.copy(subjects[number % 2].image, tmp_path / "many" / f"{number}.nii")
    few = {"images": ["many/*.nii"], "cache_gib": 2.2 * SLOT_GIB, "refresh_every": 2}
    assert len(begin(quick(data=few)).cohort) == 2
    train(quick(data=few, run={"output": "whole"}), CPU)
    parts = quick(run={"output": "parts", "minutes": 1e-9})
    train(parts, CPU)
    while not (tmp_path / "parts" / "model.safetensors").exists():
        train(parts, CPU, resume=True)
    assert_same_weights(tmp_path / "parts", tmp_path / "whole")


def test_images_of_another_size_than_the_spacings_are_for_are_refused(change):
    file = change(model={"reference_radius_mm": 6.0})
    with pytest.raises(PatchMorphError, match=r"reference_radius_mm must be near the images' own, 5\d"):
        train(load_config(file), CPU)


def test_fewer_steps_than_are_done_are_refused(trained, change):
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
