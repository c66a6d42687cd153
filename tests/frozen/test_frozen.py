"""Outputs that a refactor must not change, and the truth that they come near to."""

from pathlib import Path

import numpy as np
import pytest
from frozen import brains
from frozen.outputs import CASES, FROZEN, LOOSE, computed, differences, freeze, read


@pytest.fixture(scope="module")
def frozen():
    return read(FROZEN)


SLOW = ("auto_inverted", "packaged_two_scales", "no_model", "both_masks", "jitter_of_another_seed")
"""Cases of some seconds, each of whose parts another case goes through too."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES]
)
def test_outputs_are_what_they_were(name, frozen):
    assert not differences(computed([name])[name], frozen[name], LOOSE)


def test_every_frozen_case_is_still_computed(frozen):
    assert set(frozen) == set(CASES)
    assert Path(FROZEN).stat().st_size < 200_000


def test_renewing_one_case_leaves_the_others(frozen, tmp_path):
    path = tmp_path / "frozen.json"
    path.write_bytes(FROZEN.read_bytes())
    freeze({}, path)
    assert path.read_bytes() == FROZEN.read_bytes()
    freeze({"step_plain": {"loss total": np.array(1.0)}}, path)
    renewed = read(path)
    assert set(renewed) == set(CASES)
    assert {name for name in CASES if set(renewed[name]) != set(frozen[name])} == {"step_plain"}


def error_mm(found):
    """Mean distance to the true map inside the brain."""
    points = brains.points_world()
    inside = brains.radius(points) < 0.95
    return float(np.linalg.norm(found - brains.NEAR.truth(points), axis=-1)[inside].mean())


def errors_mm(frozen, name):
    """After the pose, and after each stage that follows."""
    stages = [values for key, values in frozen[name].items() if key.startswith("mm stage")]
    return [error_mm(stage) for stage in stages[1:]]


def test_an_affine_network_that_is_right_is_kept_and_recovers_the_truth(frozen):
    """Its two passes turn a pose that is 5 mm off into a map that is 1 mm off."""
    pose, affine, *_ = errors_mm(frozen, "tiny_same_contrast")
    assert pose > 5
    assert affine < 1.5


def test_trained_networks_recover_the_truth(frozen):
    pose, affine, dense = errors_mm(frozen, "packaged_same_contrast")
    assert pose > 5
    assert affine < 1.5
    assert dense < 0.7


def test_two_contrasts_recover_the_truth(frozen):
    assert error_mm(frozen["auto_two_contrasts_refined"]["mm map"]) < 1
