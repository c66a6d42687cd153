"""All that changes in a training survives its checkpoint."""

import pytest
import torch
from tiny import config

from patchmorph.errors import PatchMorphError
from patchmorph.io.tensors import read_tensors, write_tensors
from patchmorph.networks.model import PatchMorphModel
from patchmorph.training.checkpoint import FILE, TrainingState


def state(seed=0, **model) -> TrainingState:
    torch.manual_seed(seed)
    networks = PatchMorphModel(config(model=model).model)
    optimizer = torch.optim.AdamW(networks.parameters(), lr=1e-3)
    return TrainingState(networks, optimizer, torch.Generator().manual_seed(seed))


def go_on(training: TrainingState) -> None:
    """A step whose gradient is drawn at random."""
    for parameter in training.model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=training.generator)
    training.optimizer.step()
    training.step += 1


def flat(values: dict) -> dict[str, torch.Tensor]:
    return {f"{index}/{key}": value for index, state in values.items() for key, value in state.items()}


def assert_equal(found: TrainingState, expected: TrainingState) -> None:
    pairs = (
        (found.model.state_dict(), expected.model.state_dict()),
        (flat(found.optimizer.state_dict()["state"]), flat(expected.optimizer.state_dict()["state"])),
    )
    for one, other in pairs:
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in other)
    assert torch.equal(found.generator.get_state(), expected.generator.get_state())
    assert (found.step, found.best) == (expected.step, expected.best)


@pytest.mark.parametrize("best", [None, 0.8125])
def test_every_part_of_a_training_survives(tmp_path, best):
    training = state()
    go_on(training)
    go_on(training)
    training.best = best
    training.save(tmp_path)
    resumed = state(seed=9)
    resumed.best = 0.1
    resumed.load(tmp_path)
    # Each parameter has a count of steps and two moments.
    assert len(flat(training.optimizer.state_dict()["state"])) == 3 * len(list(training.model.parameters()))
    assert_equal(resumed, training)
    assert resumed.step == 2
    # What is drawn and learnt next is the same, too.
    go_on(training)
    go_on(resumed)
    assert_equal(resumed, training)


def test_settings_of_the_optimizer_are_those_of_the_configuration_not_of_the_checkpoint(tmp_path):
    training = state()
    go_on(training)
    training.save(tmp_path)
    resumed = state()
    resumed.optimizer.param_groups[0]["weight_decay"] = 0.25
    resumed.load(tmp_path)
    assert resumed.optimizer.param_groups[0]["weight_decay"] == 0.25


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    state().save(tmp_path)
    with pytest.raises(PatchMorphError, match="checkpoint must be of the configured model, got another in"):
        state(integration_steps=3).load(tmp_path)


def with_older_names(folder) -> None:
    """Rewrite a checkpoint as it was written before passes had their name."""
    tensors, metadata = read_tensors(folder / FILE)
    spec = metadata["spec"]
    metadata["spec"] = {name.replace("passes", "repeats"): value for name, value in spec.items()}
    assert {"repeats", "affine_repeats"} <= metadata["spec"].keys()
    assert not {"passes", "affine_passes"} & metadata["spec"].keys()
    write_tensors(folder / FILE, tensors, metadata)


def test_a_checkpoint_with_the_older_names_of_the_passes_is_resumed(tmp_path):
    passes = {"passes": [1, 2], "affine_passes": 3}
    training = state(**passes)
    go_on(training)
    training.save(tmp_path)
    with_older_names(tmp_path)
    resumed = state(seed=9, **passes)
    resumed.load(tmp_path)
    assert_equal(resumed, training)
    for other in ({"passes": [2, 1], "affine_passes": 3}, {"passes": [1, 2], "affine_passes": 2}, {}):
        with pytest.raises(PatchMorphError, match="checkpoint must be of the configured model, got another"):
            state(**other).load(tmp_path)


def spoiled(folder, metadata=(), **changes):
    """A checkpoint of two steps with some tensors replaced, or left out."""
    training = state()
    go_on(training)
    training.save(folder)
    tensors, stored = read_tensors(folder / FILE)
    for name, tensor in changes.items():
        key = name.replace("__", "/").replace("_0_", ".0.")
        assert key in tensors or tensor is not None
        tensors.pop(key, None)
        if tensor is not None:
            tensors[key] = tensor
    write_tensors(folder / FILE, tensors, stored | dict(metadata))


NAN = torch.tensor(float("nan"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"generator": None}, "just the tensors of its networks, got no generator in"),
        ({"generator": torch.zeros(3, dtype=torch.uint8)}, r"generator as uint8 \(5056,\), got U8 \(3,\) in"),
        ({"generator": torch.full((5056,), 255, dtype=torch.uint8)}, "must hold a generator's state, got "),
        ({"model__dense_0_velocity.bias": None}, r"got no model/dense\.0\.velocity\.bias in"),
        (
            {"model__dense_0_velocity.bias": torch.zeros(4)},
            r"velocity\.bias as floating-point \(3,\), got F32",
        ),
        (
            {"model__dense_0_velocity.bias": NAN.expand(3)},
            r"finite numbers, got 3 that are not in model/dense",
        ),
        ({"model__more": torch.zeros(1)}, "got also model/more in"),
        ({"optimizer__0__exp_avg": None}, "got no optimizer/0/exp_avg in"),
        ({"optimizer__0__exp_avg": torch.zeros(7)}, "optimizer/0/exp_avg as floating-point"),
        ({"optimizer__0__step": NAN}, "finite numbers, got 1 that are not in optimizer/0/step"),
        ({"optimizer__0__max_exp_avg_sq": torch.zeros(1)}, "got also optimizer/0/max_exp_avg_sq in"),
        ({"optimizer__9999__step": torch.zeros(())}, "got also optimizer/9999/step in"),
        ({"optimizer__first": torch.zeros(())}, "got also optimizer/first in"),
        (
            {"metadata": {"step": -1}},
            "must state its step, got step: Input should be greater than or equal to 0",
        ),
        ({"metadata": {"step": "many"}}, "must state its step, got step: Input should be a valid integer"),
        ({"metadata": {"step": None}}, "must state its step, got step: Input should be a valid integer"),
        (
            {"metadata": {"best": float("nan")}},
            "must state its step, got best: Input should be a finite number",
        ),
    ],
)
def test_a_checkpoint_that_is_not_whole_and_finite_is_one_clear_line(tmp_path, changes, message):
    spoiled(tmp_path, **changes)
    training, untouched = state(seed=9), state(seed=9)
    with pytest.raises(PatchMorphError, match=f"checkpoint .*{message}") as error:
        training.load(tmp_path)
    assert "\n" not in str(error.value)
    assert_equal(training, untouched)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_truncated_checkpoint_is_one_clear_line(tmp_path, share):
    spoiled(tmp_path)
    raw = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(PatchMorphError, match="checkpoint must be a safetensors file, got"):
        state().load(tmp_path)


def test_a_checkpoint_before_the_first_step_and_of_frozen_parameters_is_resumed(tmp_path):
    """Parameters that had no gradient have no state of the optimizer."""
    state().save(tmp_path)
    resumed = state(seed=9)
    resumed.load(tmp_path)
    assert_equal(resumed, state())
    training = state()
    training.model.affine.requires_grad_(False)
    for parameter in training.model.dense.parameters():
        parameter.grad = torch.ones_like(parameter)
    training.optimizer.step()
    training.save(tmp_path)
    resumed.load(tmp_path)
    assert_equal(resumed, training)
