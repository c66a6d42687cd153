"""Fields in whole steps."""

import pytest
import torch

from patchmorph.transforms.steps import in_steps, to_whole_steps


def rounded(values: torch.Tensor) -> torch.Tensor:
    field = values.clone().reshape(1, 1, -1, 1, 1)
    to_whole_steps(field)
    return field.reshape(values.shape)


@pytest.mark.parametrize("largest", [1e-7, 0.013, 7.99, 8.0, 16383.5, 32767.0, 65534.0])
def test_rounded_values_stay_as_they_are(largest):
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    values = values * (largest / values.abs().max())
    once = rounded(values)
    steps, step = in_steps(once)
    assert torch.equal(rounded(once), once)
    assert in_steps(values)[1] == step
    assert torch.equal((steps.double() * step).float(), once)


@pytest.mark.parametrize("largest", [0.013, 8.0, 100.0])
def test_steps_are_as_small_as_sixteen_bits_allow(largest):
    values = torch.tensor([largest, -largest / 3])
    steps, step = in_steps(values)
    assert 2**14 <= int(steps.abs().max()) < 2**15
    assert float((rounded(values) - values).abs().max()) <= step / 2


def test_the_largest_number_of_steps_is_used():
    steps, step = in_steps(torch.tensor([32767.0, -1.0]) / 4)
    assert (steps.tolist(), step) == ([32767, -1], 0.25)


def test_a_field_of_zeros_has_steps():
    assert torch.equal(rounded(torch.zeros(3)), torch.zeros(3))
