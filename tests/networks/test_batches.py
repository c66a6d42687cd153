"""Batches are as large as memory holds; see also `tests/registration/stages/test_network.py`."""

import pytest
import torch

from patchmorph.memory import limited
from patchmorph.networks.batches import BATCH, CUDA_BATCH, Batches

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("gib", "patch_size", "expected"),
    [(80.0, 64, CUDA_BATCH), (1.0, 64, 4), (0.01, 64, 1), (4.0, 128, 2), (1.0, 32, CUDA_BATCH)],
)
def test_a_limit_of_the_gpu_bounds_the_patches_at_a_time(gib, patch_size, expected):
    with limited(None, gib):
        assert Batches(CUDA, patch_size).size == expected
        assert Batches(CPU, patch_size).size == BATCH


def test_patches_come_back_with_their_places_in_their_order():
    batches = Batches(CPU, 16)
    patches = [torch.full((2, 4), float(k)) for k in range(10)]
    found = list(batches.over(lambda given: given * 2, list(range(10)), patches))
    assert [len(places) for places, _ in found] == [4, 4, 2]
    assert [place for places, _ in found for place in places] == list(range(10))
    torch.testing.assert_close(torch.cat([values for _, values in found]), 2 * torch.stack(patches))
    assert not list(batches.over(lambda given: given, [], []))


def test_batches_stay_small_once_memory_did_not_hold_them(caplog):
    """Of two stages of halving there is one warning; a batch is never tried twice at the same size."""
    with limited(None, 80.0):
        batches = Batches(CUDA, 64)
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
