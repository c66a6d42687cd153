"""A full disk and signals while a cohort is registered: one line, and what is done stays done."""

import csv
import os
import signal
import time
from pathlib import Path

import pytest
from faults import ROOM, contents, limited, run_stopped
from synthetic import AFFINES, grid_around, lopsided

from patchmorph.cluster import batch
from patchmorph.io.images import save_image
from patchmorph.io.transforms.formats import save_transform
from patchmorph.transforms.base import AffineTransform


@pytest.fixture
def registered(monkeypatch, summary) -> list[str]:
    """Names of the pairs that were registered, each in no time, as their summaries are written."""
    names = []

    def register(request):
        request.output.mkdir(parents=True, exist_ok=True)
        found = summary("pass")
        found.save(request.output)
        save_transform(AffineTransform.identity(), request.output / "transform.safetensors")
        names.append(request.output.name)
        return found

    monkeypatch.setattr(batch, "register_files", register)
    return names


@pytest.fixture
def command(folder, scheduler) -> list:
    return ["batch", folder / "pairs.csv", "-o", folder / "out", "--scheduler", scheduler]


@pytest.fixture
def template(tmp_path, scheduler) -> list:
    for name in "ab":
        save_image(lopsided(grid_around((17, 20, 16), AFFINES["RAS"] * 10)), tmp_path / f"{name}.nii.gz")
    images = (tmp_path / "a.nii.gz", tmp_path / "b.nii.gz")
    return ["template", *images, "--rounds", 1, "-o", tmp_path / "out", "--scheduler", scheduler]


def done(folder: Path) -> list[str]:
    """Pairs in the table whose verdict is that of a registration."""
    rows = csv.DictReader((folder / "cohort.csv").read_text().splitlines())
    return [row["name"] for row in rows if row["verdict"] == "pass"]


def unfinished(folder: Path) -> list[str]:
    """Temporary folders that stay: workers end the pair that they are at when the command stops."""
    until = time.monotonic() + 30
    while left := [name for _, names, _ in os.walk(folder) for name in names if "unfinished" in name]:
        if time.monotonic() > until:
            break
        time.sleep(0.02)
    return left


def test_a_cohort_on_a_full_disk_is_one_line_and_goes_on_when_there_is_room(run, command, registered, folder):
    lines = (folder / "pairs.csv").read_text().splitlines(keepends=True)
    (folder / "pairs.csv").write_text("".join(lines[:2]))
    assert run(*command)[0] == 0
    (folder / "pairs.csv").write_text("".join(lines))
    before = (folder / "out" / "cohort.csv").read_bytes()
    with limited(ROOM):
        status, _, error = run(*command)
    assert (status, error.count("\n")) == (2, 1), error
    assert f"written, got {folder / 'out'}" in error
    assert (folder / "out" / "cohort.csv").read_bytes() == before
    assert not unfinished(folder)
    registered.clear()
    assert run(*command)[0] == 0
    assert sorted(registered) == ["moving1_to_fixed", "moving2_to_fixed"]
    assert len(done(folder / "out")) == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cohort_that_a_signal_stops_goes_on(run, command, registered, folder, monkeypatch, number):
    """It arrives when a pair has ended and is not in the table yet."""
    with monkeypatch.context() as patch:
        patch.setattr(batch, "link_results", lambda *_: signal.raise_signal(number))
        assert run_stopped(run, *command) == (130 if number == signal.SIGINT else 143)
    assert done(folder / "out") == []
    assert not unfinished(folder)
    assert run(*command)[0] == 0
    assert len(done(folder / "out")) == 3


def test_a_template_on_a_full_disk_is_one_line_and_leaves_that_of_before(run, template, registered, tmp_path):
    assert run(*template)[0] == 0
    before = contents(tmp_path / "out")
    with limited(ROOM):
        status, _, error = run(*template, "--seed", 1)
    assert (status, error.count("\n")) == (2, 1), error
    assert "written" in error
    assert contents(tmp_path / "out").items() >= before.items()
    assert not unfinished(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_template_that_a_signal_stops_goes_on(run, template, registered, tmp_path, monkeypatch, number):
    """It arrives when the first mean has no name yet."""
    replace = os.replace

    def stopped(source, target):
        if Path(target).suffix == ".gz":
            signal.raise_signal(number)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        assert run_stopped(run, *template) == (130 if number == signal.SIGINT else 143)
    assert not list((tmp_path / "out").rglob("*.nii.gz"))
    assert not unfinished(tmp_path)
    assert run(*template)[0] == 0
    assert (tmp_path / "out" / "template.nii.gz").is_file()
