"""Steps are told to whoever listens, in order, nested, and also when they fail."""

import logging

import pytest

from patchmorph.progress import Step, advance, listening, step, track


class Heard:
    """Records what a listener is told."""

    def __init__(self):
        self.events: list[tuple[str, str, int, int]] = []

    def started(self, step: Step) -> None:
        self.events.append(("started", step.name, step.depth, step.done))

    def advanced(self, step: Step) -> None:
        self.events.append(("advanced", step.name, step.depth, step.done))

    def ended(self, step: Step) -> None:
        self.events.append(("ended", step.name, step.depth, step.done))


def test_nested_steps_are_told_with_their_depth():
    heard = Heard()
    with listening(heard), step("outer"), step("inner"):
        pass
    assert heard.events == [
        ("started", "outer", 0, 0),
        ("started", "inner", 1, 0),
        ("ended", "inner", 1, 0),
        ("ended", "outer", 0, 0),
    ]


def test_tracked_items_pass_unchanged_and_are_counted_after_their_work():
    heard = Heard()
    with listening(heard):
        seen = [(item, heard.events[-1][3]) for item in track(["a", "b"], "letters")]
    assert seen == [("a", 0), ("b", 1)]
    assert heard.events[-1] == ("ended", "letters", 0, 2)


def test_a_step_that_fails_ends_and_the_next_has_its_depth():
    heard = Heard()
    with listening(heard):
        with pytest.raises(RuntimeError), step("fails"):
            raise RuntimeError
        with step("next"):
            pass
    assert ("ended", "fails", 0, 0) in heard.events
    assert ("started", "next", 0, 0) in heard.events


def test_nobody_is_told_after_listening():
    heard = Heard()
    with listening(heard):
        pass
    with step("later"):
        pass
    assert heard.events == []


def test_the_time_left_follows_the_rate_so_far(monkeypatch):
    current = Step("patches", total=10)
    assert current.seconds_left is None
    current.done, now = 4, current.began + 2.0
    monkeypatch.setattr("patchmorph.progress.time.perf_counter", lambda: now)
    assert current.seconds_left == pytest.approx(3.0)  # 0.5 s a part, six parts
    assert Step("unknown").seconds_left is None


def test_each_step_is_logged_with_its_time_when_it_ends(caplog):
    with caplog.at_level(logging.DEBUG, logger="patchmorph"), step("outer"), step("inner", total=1) as inner:
        advance(inner)
    assert [record.getMessage().rpartition(":")[0] for record in caplog.records] == ["  inner", "outer"]
