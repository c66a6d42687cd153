"""``patchmorph report DIR`` makes the page from the folder alone."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from estimators import TRUST
from pages import text_of

from patchmorph import jobs
from patchmorph.api import Method
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.jobs import RegistrationRequest, register_files
from patchmorph.report.numbers import command
from patchmorph.results.summary import Summary


@pytest.fixture(scope="module")
def registered(files, tmp_path_factory):
    """A results folder beside its images, made once."""
    folder = tmp_path_factory.mktemp("study")
    for name in ("fixed", "moving"):
        shutil.copy(files.folder / f"{name}.nii.gz", folder / f"{name}.nii.gz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATCHMORPH_TRUST", ",".join(TRUST))
        patch.chdir(folder)
        register_files(
            RegistrationRequest(
                PairPaths(*(folder / f"{name}.nii.gz" for name in ("fixed", "moving"))),
                folder / "out",
                Method(str(files.model), "cpu"),
            )
        )
    return folder


@pytest.fixture
def study(registered, tmp_path):
    """A copy of the folder and its images elsewhere: paths are relative."""
    shutil.copytree(registered, tmp_path / "study")
    return tmp_path / "study"


def assert_one_line(result, *parts: str) -> None:
    code, _, error = result
    assert code == 2
    assert error.count("\n") == 1, error
    assert error.startswith("patchmorph: ")
    for part in parts:
        assert part in error


def test_the_page_is_made_again_from_the_folder_alone(run, study):
    page = study / "out" / "report.html"
    before, others = page.read_text(), {path.name for path in (study / "out").iterdir()}
    page.unlink()
    code, out, _ = run("report", study / "out")
    assert code == 0
    assert out == f"wrote {page}\n"
    assert text_of(page.read_text()) == text_of(before)
    assert {path.name for path in (study / "out").iterdir()} == others


def test_the_page_shows_what_the_folder_holds(run, study):
    """Other numbers in the summary, and the transform of another pair."""
    summary, page = study / "out" / "summary.json", study / "out" / "report.html"
    before = page.read_text()
    content = json.loads(summary.read_text())
    summary.write_text(json.dumps(content | {"folding_percent": 12.5, "notes": ["another <note>"]}))
    shutil.copy(study / "fixed.nii.gz", study / "moving.nii.gz")
    assert run("report", study / "out")[0] == 0
    after = page.read_text()
    assert '<td>folded voxels of the fixed content</td><td class="number">12.5 %</td>' in after
    assert "another &lt;note&gt;" in after
    pictures = [re.findall(r'alt="([^"]+)"[^>]*base64,([^"]+)"', text) for text in (before, after)]
    changed = {title for (title, one), (_, other) in zip(*pictures, strict=True) if one != other}
    assert {"axial, before, by the headers", "axial, affine part only"} <= changed  # another moving image
    assert "the fixed image with its edges in the same planes" not in changed


def test_a_folder_of_no_registration_is_one_line(run, study, tmp_path):
    (study / "out" / "summary.json").unlink()
    page = study / "out" / "report.html"
    before = page.read_bytes()
    assert_one_line(
        run("report", study / "out"), "folder must hold summary.json of a registration", str(study / "out")
    )
    assert page.read_bytes() == before
    assert_one_line(
        run("report", tmp_path / "missing"),
        "must hold summary.json of a registration or log.jsonl of a training",
        "missing",
    )
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_images_that_have_moved_are_one_line(run, study, side):
    (study / f"{side}.nii.gz").rename(study / "elsewhere.nii.gz")
    files = sorted(path.name for path in (study / "out").iterdir())
    assert_one_line(
        run("report", study / "out"),
        f"{side} image must be where the summary says",
        f"{side}.nii.gz",
        str(study / "out"),
    )
    assert sorted(path.name for path in (study / "out").iterdir()) == files


@pytest.mark.parametrize("content", ["{", "[1, 2]", '{"fixed": "a.nii.gz"}', '"text"', "\x00\xff"])
def test_a_summary_of_something_else_is_one_line(run, study, content):
    """Such as that of ``patchmorph evaluate``."""
    path = study / "out" / "summary.json"
    path.write_bytes(content.encode("latin-1"))
    assert_one_line(run("report", study / "out"), "summary must be that of a registration", str(path))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("background", {"a": 1}, "background must be a number, got {'a': 1} in"),
        ("save", [[]], "argument save must be one of a registration, got [[]]"),
        ("save", None, "argument save must be one of a registration, got None"),
    ],
)
def test_an_argument_of_another_kind_is_one_line(run, study, name, value, message):
    path = study / "out" / "summary.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"arguments": content["arguments"] | {name: value}}))
    assert_one_line(run("report", study / "out"), message)


@pytest.mark.parametrize("name", ["fixed.nii.gz", "out/transform.safetensors"])
def test_files_that_cannot_be_read_are_one_line(run, study, name):
    (study / name).write_bytes(b"broken")
    assert_one_line(run("report", study / "out"), name.rpartition("/")[2])


def test_a_folder_without_its_transform_is_one_line(run, study):
    (study / "out" / "transform.safetensors").unlink()
    assert_one_line(run("report", study / "out"), "transform", "transform.safetensors")


OPTIONS = (
    *(
        "--transform",
        "affine",
        "--fast",
        "--seed",
        "5",
        "--background",
        "0",
        "--initial-transform",
        "centers",
    ),
    *("--fixed-mask", "fixed.nii.gz", "--fixed-spacing", "2,1,1", "--trust", "a:B", "--trust", "c:D"),
    *(
        "--fixed-channel",
        "f.nii",
        "--moving-channel",
        "m.nii",
        "--channel-weight",
        "0.5",
        "--save-uncertainty",
    ),
    *("--save", "warped,report"),
)


def test_the_command_on_the_page_asks_for_the_same_again(run, monkeypatch, tmp_path):
    """What it makes is asked for as by the command before, with paths from the page on."""
    asked = []
    monkeypatch.setattr(jobs, "register_files", lambda request: asked.append(request) or 1 / 0)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError):
        run("register", "fixed.nii.gz", "moving.nii.gz", "-o", "out", *OPTIONS)
    paths = {name: str(Path("..") / path) for name, path in asked[0].paths.given().items()}
    images, arguments = ("fixed.nii.gz", "moving.nii.gz"), asked[0].arguments()
    summary = Summary(
        *images, "pass", [], 0.0, 0.0, 0.0, 0.0, {}, [], 0.0, arguments, {}, "", None, {}, paths
    )
    again = command(summary)
    with pytest.raises(ZeroDivisionError):
        run(*shlex.split(again)[1:])
    assert asked[1].method == asked[0].method
    assert set(asked[1].saved) == set(asked[0].saved)
    assert {name: str(path) for name, path in asked[1].paths.given().items()} == paths
    assert asked[1].output == Path("again")
