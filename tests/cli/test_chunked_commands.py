"""Commands on images that are opened and not read give what they give in memory."""

import json
import shutil

import numpy as np
import pytest
import torch
import zarr
from estimators import NO_SEARCH

from patchmorph.io import chunked
from patchmorph.io.images import load_image, save_image
from patchmorph.io.resumable import PARTIAL
from patchmorph.io.transforms.formats import load_transform


@pytest.fixture(scope="module")
def zarrs(files):
    """The pair as OME-Zarr, of one level each, since coarser ones are made by other tools in other ways."""
    for side in ("fixed", "moving"):
        path = files.folder / f"{side}.ome.zarr"
        save_image(load_image(getattr(files, side)), path)
        ome = dict(zarr.open_group(path, mode="r").attrs["ome"])
        ome["multiscales"][0]["datasets"] = ome["multiscales"][0]["datasets"][:1]
        zarr.open_group(path).attrs["ome"] = ome
    return files.folder


@pytest.fixture
def opened(monkeypatch):
    monkeypatch.setattr(chunked, "WHOLE_VOXELS", 0)


def registered(run, folder, files, fixed, moving) -> dict:
    options = ("--model", files.model, "--device", "cpu", "-o", folder, "--save", "transform,warped,summary")
    code, _, err = run("register", fixed, moving, *NO_SEARCH, *options)
    assert (code, err) == (0, "")
    return json.loads((folder / "summary.json").read_text())


def test_a_registration_gives_the_map_of_the_same_images_in_nifti(run, zarrs, files, tmp_path, opened):
    chunks = [zarrs / f"{side}.ome.zarr" for side in ("fixed", "moving")]
    found = registered(run, tmp_path / "chunks", files, *chunks)
    expected = registered(run, tmp_path / "whole", files, files.fixed, files.moving)
    maps = [load_transform(tmp_path / name / "transform.safetensors") for name in ("chunks", "whole")]
    points = load_image(files.fixed).grid.points_world()
    assert (maps[0](points) - maps[1](points)).norm(dim=-1).max() < 1e-3  # mm
    for figure in ("verdict", "reasons", "similarity_after", "folding_percent"):
        assert found[figure] == pytest.approx(expected[figure], abs=1e-4)
    warped = load_image(tmp_path / "chunks" / "warped.ome.zarr")
    other = load_image(tmp_path / "whole" / "warped.nii.gz")
    assert warped.grid.shape == other.grid.shape
    torch.testing.assert_close(warped.data, other.data, atol=1e-4, rtol=0)


@pytest.mark.parametrize("more", [(), ("--inverse",), ("--interpolation", "cubic")])
def test_apply_writes_what_it_writes_in_memory(run, zarrs, files, tmp_path, more):
    (tmp_path / "turn.tfm").write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        "Parameters: 0.95 0.1 0 -0.1 0.98 0.02 0 0 1.05 0.3 -0.2 0.1\nFixedParameters: 0 0 0\n"
    )
    arguments = (zarrs / "moving.ome.zarr", "--reference", zarrs / "fixed.ome.zarr", *more)
    code, out, err = run("apply", tmp_path / "turn.tfm", *arguments, "-o", tmp_path / "a.ome.zarr")
    assert (code, err) == (0, "")
    assert "block by block" in out
    assert run("apply", tmp_path / "turn.tfm", *arguments, "-o", tmp_path / "a.nii.gz")[0] == 0
    found, expected = (load_image(tmp_path / name) for name in ("a.ome.zarr", "a.nii.gz"))
    torch.testing.assert_close(found.data, expected.data, atol=1e-5, rtol=0)
    options = ("--reference", zarrs / "fixed.ome.zarr", "--log")
    for name in ("j.ome.zarr", "j.nii.gz"):
        assert run("jacobian", tmp_path / "turn.tfm", *options, "-o", tmp_path / name)[0] == 0
    found, expected = (load_image(tmp_path / name) for name in ("j.ome.zarr", "j.nii.gz"))
    torch.testing.assert_close(found.data, expected.data, atol=1e-5, rtol=0)


def test_points_of_a_chunked_image(run, zarrs, files, tmp_path):
    (tmp_path / "cells.csv").write_text("x,y,z\n10,20,5\n0,3,7\n")
    (tmp_path / "shift.tfm").write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        "Parameters: 1 0 0 0 1 0 0 0 1 0.5 0.25 1\nFixedParameters: 0 0 0\n"
    )
    found = []
    for frame in (zarrs / "fixed.ome.zarr", files.fixed):
        options = ("--frame", frame, "--output-frame", "ras", "-o", tmp_path / "out.csv")
        assert run("apply-points", tmp_path / "shift.tfm", tmp_path / "cells.csv", *options)[0] == 0
        found.append(np.loadtxt(tmp_path / "out.csv", delimiter=",", skiprows=1))
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


def test_a_damaged_chunk_is_one_line_and_leaves_nothing(run, zarrs, files, tmp_path, opened):
    broken = tmp_path / "broken.ome.zarr"
    shutil.copytree(zarrs / "moving.ome.zarr", broken)
    (chunk,) = (file for file in (broken / "0" / "c").rglob("*") if file.is_file())
    chunk.write_bytes(b"damage")
    options = ("--model", files.model, "-o", tmp_path / "out")
    code, _, err = run("register", files.fixed, broken, *options)
    assert (code, err.count("\n")) == (2, 1)
    assert "chunks must be readable" in err
    (tmp_path / "shift.tfm").write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        "Parameters: 1 0 0 0 1 0 0 0 1 0.5 0.25 1\nFixedParameters: 0 0 0\n"
    )
    options = ("--reference", files.fixed, "-o", tmp_path / "a.ome.zarr", "--interpolation", "linear")
    code, _, err = run("apply", tmp_path / "shift.tfm", broken, *options)
    assert (code, err.count("\n")) == (2, 1)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"broken.ome.zarr", "shift.tfm"}
    assert not list(tmp_path.glob(f"{PARTIAL}*"))
