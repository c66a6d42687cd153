"""Progress on standard error: plain lines without a terminal, bars on one, nothing when quiet."""

import io
import re
import sys
import time

import pytest
from rich.console import Console

from patchmorph.cli import display
from patchmorph.progress import LOG, advance, step


@pytest.fixture(autouse=True)
def no_options(monkeypatch):
    """Those of the tests' own command may ask for quiet."""
    monkeypatch.setattr(sys, "argv", ["patchmorph"])


@pytest.fixture
def quick(monkeypatch):
    """The times of plain lines, a tenth as long."""
    monkeypatch.setattr(display, "SILENCE", 0.2)
    monkeypatch.setattr(display, "TICK", 0.05)


def wait_for(capsys, pattern: str, seconds: float = 120.0) -> str:
    """Standard error until it matches; a machine may be slow."""
    text, end = "", time.monotonic() + seconds
    while not re.search(pattern, text) and time.monotonic() < end:
        text += capsys.readouterr().err
        time.sleep(0.02)
    return text


def test_a_step_that_lasts_is_named_and_repeated_with_its_parts(quick, capsys):
    with display.display(), step("patches", total=8) as current:
        advance(current, 2)
        text = wait_for(capsys, r"(patches 2/8, \d+ s, \d+ s left\n){3}")
    assert re.search(r"(patches 2/8, \d+ s, \d+ s left\n){3}", text)


def test_short_steps_leave_no_line(capsys, monkeypatch):
    monkeypatch.setattr(display, "TICK", 60.0)  # a machine may stop for half a second
    with display.display(), step("short"):
        pass
    assert capsys.readouterr().err == ""


def test_quiet_prints_warnings_only_and_verbose_the_time_of_each_step(quick, capsys):
    with display.display():
        display.set_verbosity(-1)
        with step("patches"):
            LOG.info("a remark")
            LOG.warning("a warning")
            time.sleep(0.3)  # several ticks
        assert capsys.readouterr().err == "a warning\n"
        assert display.console.quiet
        display.set_verbosity(1)
        with step("short"):
            pass
        assert re.fullmatch(r"(short, \d+ s\n)*short: \d+\.\d\d s\n", capsys.readouterr().err)
    display.set_verbosity(0)
    assert not display.console.quiet


@pytest.mark.parametrize("option", ["-q", "--quiet"])
def test_quiet_holds_from_the_start(quick, capsys, monkeypatch, option):
    """While the libraries of a command are loaded, too."""
    monkeypatch.setattr(sys, "argv", ["patchmorph", "models", option])
    with display.display(), step("load libraries"):
        time.sleep(0.3)  # several ticks
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_bars_that_are_gone_at_the_end(monkeypatch):
    written = io.StringIO()
    monkeypatch.setattr(display, "errors", Console(file=written, force_terminal=True, width=100, _environ={}))
    with display.display(), step("outer"), step("patches at 1 mm", total=4) as current:
        advance(current, 3)
        until = time.monotonic() + 120
        while "3/4" not in written.getvalue() and time.monotonic() < until:
            time.sleep(0.02)  # bars are redrawn ten times a second
    assert "patches at 1 mm" in written.getvalue()
    assert "3/4" in written.getvalue()
    assert written.getvalue().count("\x1b[2K") >= 2  # both lines are cleared
