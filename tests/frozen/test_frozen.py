"""Outputs that a refactor must not change, and the truth that they come near to."""

from pathlib import Path

import numpy as np
import pytest
from frozen import brains
from frozen.outputs import CASES, FROZEN, LOOSE, computed, differences, read


@pytest.fixture(scope="module")
def frozen():
    return read(FROZEN)


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_what_they_were(name, frozen):
    assert not differences(computed([name])[name], frozen[name], LOOSE)


def test_every_frozen_case_is_still_computed(frozen):
    assert set(frozen) == set(CASES)
    assert Path(FROZEN).stat().st_size < 200_000


def errors_mm(frozen, name):
    """Mean distance to the truth inside the brain after the pose and after each stage that follows."""
    points = brains.points_world()
    truth, inside = brains.NEAR.truth(points), brains.radius(points) < 0.95
    stages = [values for key, values in frozen[name].items() if key.startswith("mm stage")]
    return [float(np.linalg.norm(stage - truth, axis=-1)[inside].mean()) for stage in stages[1:]]


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
