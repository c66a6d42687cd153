"""The examination of an installation, whole and broken."""

import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from patchmorph import catalogue, doctor
from patchmorph.version import VERSION


@dataclass
class Broken:
    """Modules that cannot be imported, for a reason."""

    module: str
    error: Exception

    def find_spec(self, name, path=None, target=None):
        if name == self.module:
            raise self.error


def test_all_parts_are_found_and_work(run):
    status, out, error = run("doctor")
    assert (status, error) == (0, "")
    lines = out.splitlines()
    assert f"patchmorph {VERSION}" in lines[0]
    assert " GiB, " in next(line for line in lines if line.startswith("memory"))
    assert "threads" in next(line for line in lines if line.startswith("cpu"))
    for name in catalogue.packaged_models():
        assert f"model          {name}: PatchMorphModel(" in out
    for extra in doctor.EXTRAS:
        assert f"extra {extra} " in out


def test_the_extras_are_those_of_the_package():
    path = Path(__file__).parents[1] / "pyproject.toml"
    stated = tomllib.loads(path.read_text())["project"]["optional-dependencies"]
    modules = {
        name: {*re.findall(r"[A-Za-z]\w*", " ".join(re.sub(r">=[\d.]+", "", one) for one in needed))}
        for name, needed in stated.items()
        if name not in ("docs", "dev")
    }
    assert {name: set(found) for name, found in doctor.EXTRAS.items()} == modules


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ModuleNotFoundError("no", name="SimpleITK"), 0, "not installed (pip install 'patchmorph[itk]')"),
        (ModuleNotFoundError("no", name="other"), 1, "broken: SimpleITK requires other"),
        (OSError("lib.so:\nundefined symbol"), 1, "broken: SimpleITK: lib.so: undefined symbol"),
    ],
)
def test_an_extra_may_be_missing_but_not_broken(run, monkeypatch, error, status, text):
    monkeypatch.setattr(doctor, "EXTRAS", {"itk": ("SimpleITK",)})
    monkeypatch.delitem(sys.modules, "SimpleITK", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken("SimpleITK", error), *sys.meta_path])
    found, out, _ = run("doctor")
    assert found == status
    assert out.splitlines()[-1] == f"extra itk      {text}"


def test_a_damaged_model_is_named(run, monkeypatch, tmp_path):
    (tmp_path / "t1-brain.safetensors").write_bytes(b"x" * 100)
    monkeypatch.setattr(catalogue, "_folder", lambda: tmp_path)
    monkeypatch.setattr(doctor, "EXTRAS", {})
    status, out, _ = run("doctor")
    assert status == 1
    assert "model          t1-brain is broken: model must be a safetensors file" in out
