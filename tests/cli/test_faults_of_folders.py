"""A full disk and SIGTERM while ``evaluate`` and ``report`` write: one line, and what was there stays."""

import os
import signal
from pathlib import Path

import pytest
from faults import ROOM, contents, limited, run_stopped
from registered import registered

from patchmorph import jobs
from patchmorph.api import Method
from patchmorph.evaluation.pairs import PairPaths


@pytest.fixture
def evaluate(monkeypatch, files, tmp_path) -> list:
    """Arguments of an evaluation of two pairs whose registrations end at the true map."""
    monkeypatch.setattr(jobs, "register", lambda fixed, moving, **_: registered(fixed, moving, files.truth))
    (tmp_path / "pairs.csv").write_text("fixed,moving\n" + f"{files.fixed},{files.moving}\n" * 2)
    return ["evaluate", tmp_path / "pairs.csv", "-o", tmp_path / "out", "--model", "none", "--overwrite"]


@pytest.fixture(scope="module")
def results(files, tmp_path_factory) -> Path:
    """A results folder with its page."""
    folder = tmp_path_factory.mktemp("results")
    paths = PairPaths(files.fixed, files.moving)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "register", lambda fixed, moving, **_: registered(fixed, moving, files.truth))
        jobs.register_files(jobs.RegistrationRequest(paths, folder, Method("none", "cpu")))
    return folder


def test_an_evaluation_on_a_full_disk_is_one_line(run, evaluate, tmp_path):
    with limited(ROOM):
        status, _, error = run(*evaluate)
    assert (status, error.count("\n")) == (2, 1), error
    assert f"must be in a place that can be written, got {tmp_path / 'out'}" in error
    assert not [path for path in contents(tmp_path) if "unfinished" in path.name]


def test_a_report_on_a_full_disk_is_one_line_and_leaves_the_page_of_before(run, results):
    before = contents(results)
    with limited(ROOM):
        status, _, error = run("report", results)
    assert (status, error.count("\n")) == (2, 1), error
    assert "written" in error
    assert contents(results) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_page_has_its_name_leaves_that_of_before(run, results, monkeypatch, number):
    before = contents(results)
    monkeypatch.setattr(os, "replace", lambda *_: signal.raise_signal(number))
    assert run_stopped(run, "report", results) == (130 if number == signal.SIGINT else 143)
    assert contents(results) == before


def test_sigterm_between_two_pairs_keeps_the_rows_that_were_done(run, evaluate, tmp_path, monkeypatch):
    register = jobs.register

    def stopped(**named):
        if len((tmp_path / "out" / "pairs.csv").read_text().splitlines()) > 1:
            signal.raise_signal(signal.SIGTERM)
        return register(**named)

    monkeypatch.setattr(jobs, "register", stopped)
    assert run_stopped(run, *evaluate) == 143
    assert len((tmp_path / "out" / "pairs.csv").read_text().splitlines()) == 2
    assert not [path for path in contents(tmp_path) if "unfinished" in path.name]
