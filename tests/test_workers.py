"""Parts are computed on one core each, several at a time, and come back in their order."""

import threading
import time

import pytest
import torch

from patchmorph.workers import AHEAD, beside, in_order, one_core


@pytest.fixture
def three_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


def test_results_come_in_the_order_of_the_parts(three_threads):
    def slow_at_first(part: int) -> int:
        time.sleep(0.02 if part == 0 else 0)
        return part * part

    assert list(in_order(slow_at_first, range(20))) == [part * part for part in range(20)]


def test_each_part_has_one_core_and_as_many_run_at_once_as_threads_are_allowed(three_threads):
    together = threading.Barrier(3, timeout=120)  # breaks unless three parts are there at once

    def meet(part: int) -> tuple[int, bool]:
        together.wait()
        return torch.get_num_threads(), torch.is_grad_enabled()

    with torch.no_grad():
        assert list(in_order(meet, range(6))) == [(1, False)] * 6
    assert list(in_order(meet, range(3))) == [(1, True)] * 3
    assert torch.get_num_threads() == 3
    started = []
    thread = threading.Thread(target=lambda: started.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert started == [3]


def test_a_thread_that_begins_when_all_is_computed_changes_nothing(three_threads, monkeypatch):
    limit, begun, started = torch.set_num_threads, [], []

    def late(threads: int) -> None:
        begun.append(threads)
        time.sleep(0.2 if threads == 1 and len(begun) > 1 else 0)  # all but the first thread of the pool
        limit(threads)

    monkeypatch.setattr(torch, "set_num_threads", late)
    assert list(in_order(abs, range(6))) == list(range(6))
    time.sleep(0.4)
    thread = threading.Thread(target=lambda: started.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert started == [3]


def test_no_more_parts_run_at_once_than_are_wanted(three_threads):
    running, most = [], []
    together = threading.Barrier(2, timeout=120)  # breaks unless two parts are there at once

    def count(part: int) -> None:
        running.append(part)
        most.append(len(running))
        together.wait()
        time.sleep(0.002)
        running.remove(part)

    assert list(in_order(count, range(20), at_most=2)) == [None] * 20
    assert max(most) == 2


def test_parts_of_parts_stay_on_the_core_of_their_part(three_threads):
    def inner(part: int) -> int:
        return threading.get_ident()

    def outer(part: int) -> bool:
        return set(in_order(inner, range(4))) == {threading.get_ident()}

    assert all(in_order(outer, range(6)))


@pytest.mark.parametrize("threads", [1, 3])
def test_few_results_wait_for_a_slow_caller(threads):
    before, taken, computed = torch.get_num_threads(), 0, []
    torch.set_num_threads(threads)
    try:
        for _ in in_order(computed.append, range(40)):
            taken += 1
            time.sleep(0.002)
            assert len(computed) <= taken + threads + AHEAD
    finally:
        torch.set_num_threads(before)
    assert taken == 40


def test_an_error_ends_the_work_and_reaches_the_caller(three_threads):
    computed = []

    def fail_at_three(part: int) -> None:
        computed.append(part)
        if part == 3:
            raise KeyError("three")

    with pytest.raises(KeyError, match="three"):
        list(in_order(fail_at_three, range(1000)))
    assert len(computed) < 20
    assert torch.get_num_threads() == 3


def test_one_core_is_for_this_thread_and_ends_with_the_block(three_threads):
    with one_core():
        assert torch.get_num_threads() == 1
        assert len({*in_order(lambda part: threading.get_ident(), range(4))}) == 1
    assert torch.get_num_threads() == 3


def test_one_core_ends_with_an_error_too(three_threads):
    def fail() -> None:
        with one_core():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("threads", "own"), [(1, True), (2, False)])
def test_work_beside_the_caller_takes_no_more_cores_than_allowed(threads, own):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with beside(2) as others:
            where, failed = others.submit(threading.get_ident), others.submit(lambda: 1 / 0)
            assert (where.result() == threading.get_ident()) is own
            with pytest.raises(ZeroDivisionError):
                failed.result()
    finally:
        torch.set_num_threads(before)
