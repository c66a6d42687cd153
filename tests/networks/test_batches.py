"""Batches are as large as memory holds; see also `tests/registration/stages/test_network.py`."""

import pytest
import torch

from patchmorph.memory import limited
from patchmorph.networks.batches import BATCH, CUDA_BATCH, Batches

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("gib", "patch", "expected", "on_cpu"),
    [
        (80.0, (64, 64, 64), CUDA_BATCH, BATCH),
        (1.0, (64, 64, 64), 4, BATCH),
        (0.01, (64, 64, 64), 1, BATCH),
        (80.0, (80, 112, 80), 4, 1),
        (1.0, (80, 112, 80), 1, 1),
        (80.0, (128, 128, 128), 1, 1),
        (1.0, (32, 32, 32), CUDA_BATCH, BATCH),
    ],
)
def test_patches_at_a_time_are_as_many_as_their_voxels_and_the_limit_of_the_gpu_allow(
    gib, patch, expected, on_cpu
):
    with limited(None, gib):
        assert Batches(CUDA, patch).size == expected
        assert Batches(CPU, patch).size == on_cpu


def test_patches_come_back_with_their_places_in_their_order():
    batches = Batches(CPU, (16, 16, 16))
    patches = [torch.full((2, 4), float(k)) for k in range(10)]
    found = list(batches.over(lambda given: given * 2, list(range(10)), patches))
    assert [len(places) for places, _ in found] == [4, 4, 2]
    assert [place for places, _ in found for place in places] == list(range(10))
    torch.testing.assert_close(torch.cat([values for _, values in found]), 2 * torch.stack(patches))
    assert not list(batches.over(lambda given: given, [], []))


def test_batches_stay_small_once_memory_did_not_hold_them(caplog):
    """Of two stages of halving there is one warning; a batch is never tried twice at the same size."""
    with limited(None, 80.0):
        batches = Batches(CUDA, (64, 64, 64))
    tried = []

    def greedy(given):
        tried.append(len(given))
        if len(given) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return given

    for _ in range(2):
        places = [
            place for part, _ in batches.over(greedy, list(range(7)), [torch.zeros(1)] * 7) for place in part
        ]
        assert places == list(range(7))
    assert tried == [12, 6, 3, 3, 3, 3, 3, 3]
    assert len(caplog.messages) == 1
