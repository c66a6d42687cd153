"""The typed summary and its file."""

import json
import math
import pickle
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from patchmorph import __version__
from patchmorph.errors import PatchMorphError
from patchmorph.results.summary import Summary, device_name, peak_memory_gib, versions

STATUS = Path("/proc/self/status")


@pytest.fixture
def summary() -> Summary:
    """Another value in each field, and numbers that take every digit."""
    return Summary(
        fixed="sub-01/Ünal_T1w.nii.gz",
        moving="b.nii.gz",
        verdict="check",
        reasons=["One reason.", "Another: ≥ 1."],
        similarity_before=1 / 3,
        similarity_after=0.1 + 0.2,
        folding_percent=0.0,
        sd_log_jacobian=1e-9 / 7,
        evidence={"overlap": 1 / 3, "scale": 1.5},
        notes=["One thing.", "Another: φ."],
        without_counterpart_percent=100 / 7,
        arguments={"model": "auto", "refine": None, "seed": 2**63 - 1, "jitter": False},
        versions=versions(),
        device="some CPU, 2 threads",
        peak_memory_gib=2 / 3,
        seconds={"load": 0.1, "register": 12.25},
        files={"fixed": "../a.nii.gz", "moving": "../b.nii.gz"},
    )


def test_a_summary_is_the_same_from_its_file(summary, tmp_path):
    summary.save(tmp_path)
    assert Summary.load(tmp_path) == summary
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_summary_is_the_same_from_another_process(summary):
    assert pickle.loads(pickle.dumps(summary)) == summary


def test_every_field_is_in_the_file_and_in_its_order(summary, tmp_path):
    summary.save(tmp_path)
    content = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert list(content) == [field.name for field in fields(Summary)]
    assert content == {field.name: getattr(summary, field.name) for field in fields(Summary)}


def test_what_cannot_be_measured_stays_nan(summary, tmp_path):
    replace(summary, folding_percent=math.nan).save(tmp_path)
    assert math.isnan(Summary.load(tmp_path).folding_percent)


def test_a_summary_of_a_later_version_is_read_without_its_further_fields(summary, tmp_path):
    summary.save(tmp_path)
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"of_a_later_version": 1}))
    assert Summary.load(tmp_path) == summary


@pytest.mark.parametrize("content", ["{", "[]", '"text"', "3", '{"fixed": "a"}', '{"pairs": 2}'])
def test_a_file_that_is_no_summary_is_rejected(tmp_path, content):
    (tmp_path / "summary.json").write_text(content)
    with pytest.raises(PatchMorphError, match=r"summary must be that of a registration, got .*summary\.json"):
        Summary.load(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fixed", 1),
        ("reasons", "a sentence"),
        ("notes", 1),
        ("similarity_after", "0.9"),
        ("folding_percent", True),
        ("evidence", {"agreement": "high"}),
        ("seconds", [1.0]),
        ("files", {"fixed": None}),
        ("dice", math.nan),
        ("versions", {"torch": 2}),
    ],
)
def test_a_figure_or_text_of_another_kind_is_rejected(summary, tmp_path, field, value):
    summary.save(tmp_path)
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(PatchMorphError, match=rf"got .*summary\.json: {field}") as error:
        Summary.load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_summary_is_rejected(tmp_path):
    with pytest.raises(PatchMorphError, match=r"must hold summary\.json, got none in .*missing"):
        Summary.load(tmp_path / "missing")


def test_versions_and_device_are_those_of_this_process():
    assert versions()["patchmorph"] == __version__
    assert versions()["torch"] == torch.__version__
    assert device_name(torch.device("cpu")).endswith(f"CPU, {torch.get_num_threads()} threads")


@pytest.mark.skipif(not STATUS.exists(), reason="needs the process file system of Linux")
def test_peak_memory_is_the_high_water_mark_in_gib():
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
    kib = int(line.split()[1])
    assert peak_memory_gib(torch.device("cpu")) == pytest.approx(kib / 2**20, rel=0.02)


def test_peak_memory_is_not_given_where_the_system_has_no_such_figure(monkeypatch):
    """On Windows."""
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory_gib(torch.device("cpu")) is None
