"""Limits of memory are kept by what plans with them; arrays in scratch files are arrays like any other."""

import errno
import gc
import os

import pytest
import torch

from patchmorph import memory
from patchmorph.errors import PatchMorphError
from patchmorph.memory import GIB, SHARE, gpu_limit, images_fit, limited, memory_limit, release, zeros

SHAPE = (1, 3, 20, 30, 40)
SMALL = SHARE * 4 * 3 * 20 * 30 * 40 / GIB / 2
"""A limit that the array of `SHAPE` takes a share of which is twice too large."""


def resident() -> int:
    """Bytes of this process that lie in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def files():
    """How many arrays lie in scratch files."""
    gc.collect()
    before = len(memory._scratch)
    return lambda: len(memory._scratch) - before


def test_only_large_arrays_go_to_a_file_and_the_file_goes_with_its_array(files):
    small = zeros(SHAPE)
    assert files() == 0
    with limited(SMALL):
        large = zeros(SHAPE)
        assert files() == 1
        zeros((1, 3, 2, 2, 2))
    assert small.shape == large.shape == SHAPE
    assert not large.any()
    part = large[0, 1, 5:9]  # keeps it alive, as in any tensor
    del large
    gc.collect()
    assert files() == 1
    part += 1
    assert float(part.sum()) == part.numel()
    del part
    gc.collect()
    assert files() == 0


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the size in memory is read from /proc")
def test_what_was_released_takes_no_memory_and_has_its_values(files):
    shape = (1, 3, 100, 100, 400)
    with limited(0.1):
        array = zeros(shape)
    array += 2
    array[0, 2, 50, 50, 7] = 5
    full = resident()
    release()
    assert full - resident() > 0.5 * 4 * array.numel()  # other threads may take some meanwhile
    assert float(array[0, 2, 50, 50, 7]) == 5
    assert float(array[0, 1].mean()) == 2


def test_a_disk_without_room_is_an_error_before_anything_is_written(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with (
        limited(SMALL),
        pytest.raises(PatchMorphError, match=r"scratch folder must have room for .* No space"),
    ):
        zeros(SHAPE)


def test_limits_hold_within_their_block_only():
    installed = memory_limit()
    with limited(2.5, 1.5):
        assert memory_limit() == 2.5 * GIB
        assert gpu_limit(torch.device("cuda")) == 1.5 * GIB
        with limited(None, 1.0):
            assert (memory_limit(), gpu_limit(torch.device("cuda"))) == (2.5 * GIB, GIB)
    assert memory_limit() == installed > 2**28


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(wrong):
    with (
        pytest.raises(PatchMorphError, match="GPU memory limit must be a number of GiB above 0, got"),
        limited(1.0, wrong),
    ):
        pass


def test_images_stay_outside_a_gpu_where_they_are_too_large_for_it():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    with limited(None, 4.0):
        assert images_fit(2**28, gpu)  # a quarter of 4 GiB
        assert not images_fit(2**28 + 1, gpu)
        assert images_fit(2**40, cpu)
    with limited(None, 80.0):
        assert not images_fit(2**29 + 1, gpu)
