"""A full disk, a read-only folder, Ctrl-C and SIGTERM: what was there stays, and nothing else is left."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from estimators import NO_SEARCH
from faults import ROOM, contents, limited, run_stopped

from patchmorph.io.transforms.formats import save_transform
from patchmorph.transforms.base import AffineTransform

OLD = b"what was there before"


@pytest.fixture(scope="module")
def inputs(files, tmp_path_factory) -> dict[str, list]:
    """Arguments of each command but its output, by the name of that."""
    folder = tmp_path_factory.mktemp("inputs")
    shift = folder / "shift.tfm"
    save_transform(AffineTransform.translation(torch.tensor([[1.0, 0, 0]])), shift)
    points = folder / "points.csv"
    points.write_text("x,y,z\n" + "1.5,2.5,3.5\n" * 200)
    (folder / "pairs.csv").write_text(f"fixed,moving\n{files.fixed},{files.moving}\n")
    reference = ("--reference", files.fixed)
    register = ("register", files.fixed, files.moving, "--model", files.model, *NO_SEARCH, "--overwrite")
    return {
        "warped.nii.gz": ["apply", shift, files.moving, *reference],
        "warped.nii": ["apply", shift, files.moving, *reference],
        "warped.mgz": ["apply", shift, files.moving, *reference],
        "warped.nrrd": ["apply", shift, files.moving, *reference],
        "warped.tif": ["apply", shift, files.moving, *reference],
        "warped.ome.zarr": ["apply", shift, files.moving, *reference],
        "map.zarr": ["convert", shift, *reference],
        "points.csv": ["apply-points", shift, points, "--frame", "ras"],
        "field.nii.gz": ["convert", shift, *reference],
        "map.h5": ["compose", shift, shift, *reference],
        "map.x5": ["convert", shift, *reference],
        "map.safetensors": ["convert", shift],
        "inverse.h5": ["invert", shift, *reference],
        "jacobian.nii.gz": ["jacobian", shift, *reference],
        "results": list(register),
    }


OUTPUTS = (
    *(f"warped{ending}" for ending in (".nii.gz", ".nii", ".mgz", ".nrrd", ".tif", ".ome.zarr")),
    *(f"map{ending}" for ending in (".h5", ".x5", ".safetensors", ".zarr")),
    *("points.csv", "field.nii.gz", "inverse.h5", "jacobian.nii.gz", "results"),
)


def occupied(folder: Path, name: str) -> dict[Path, bytes]:
    """The output of an earlier run, and all files of the folder."""
    within = {"results": "summary.json", "warped.ome.zarr": "zarr.json", "map.zarr": "zarr.json"}
    old = folder / name / within.get(name, "")
    old.parent.mkdir(exist_ok=True)
    old.write_bytes(OLD)
    return contents(folder)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_full_disk_is_one_line_and_leaves_what_was_there(run, inputs, tmp_path, monkeypatch, name):
    before = occupied(tmp_path, name)
    monkeypatch.chdir(tmp_path)
    with limited(ROOM):
        status, _, error = run(*inputs[name], "-o", name)
    assert (status, error.count("\n")) == (2, 1), error
    assert error.startswith("patchmorph: ")
    assert f"written, got {name}" in error or f"written whole, got {name}" in error
    assert contents(tmp_path) == before


@pytest.fixture
def read_only(tmp_path):
    """A small file system, mounted read-only with ``mount(OPTIONS)``."""
    folder = tmp_path / "mounted"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts as Linux does")
@pytest.mark.parametrize("fault", ["full", "read-only"])
@pytest.mark.parametrize("name", ["warped.nii", "map.h5", "points.csv", "results"])
def test_a_file_system_that_takes_nothing_is_one_line(run, inputs, read_only, fault, name):
    occupied(read_only, name)
    if fault == "full":
        filler = (read_only / "filler").open("wb", buffering=0)
        with filler, suppress(OSError):
            while True:
                filler.write(bytes(2**12))
    else:
        subprocess.run(["mount", "-o", "remount,ro", read_only], check=True)
    before = contents(read_only)
    status, _, error = run(*inputs[name], "-o", read_only / name)
    assert (status, error.count("\n")) == (2, 1), error
    assert ("No space left" if fault == "full" else "Read-only") in error
    assert contents(read_only) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", OUTPUTS)
def test_a_signal_before_the_last_step_leaves_what_was_there(
    run, inputs, tmp_path, monkeypatch, number, name
):
    """It arrives when all is written and nothing has its name yet."""
    before = occupied(tmp_path, name)

    def stopped(*_):
        signal.raise_signal(number)

    for function in ("replace", "rename"):
        monkeypatch.setattr(os, function, stopped)
    status = run_stopped(run, *inputs[name], "-o", tmp_path / name)
    assert status == (130 if number == signal.SIGINT else 143)
    monkeypatch.undo()
    assert contents(tmp_path) == before
