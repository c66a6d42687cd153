"""The verdict in the terminal, in files and as exit status; lesions and backgrounds through commands."""

import html
import json

import pytest
import torch
from estimators import NO_SEARCH
from pages import text_of
from registered import registered

from patchmorph import jobs
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image, save_image
from patchmorph.io.transforms.formats import load_transform
from patchmorph.registration.preparation import IGNORED
from patchmorph.registration.verdict import Evidence
from patchmorph.transforms.base import AffineTransform, Transform

AWAY = AffineTransform.translation(torch.tensor([[1.5, 1.0, -1.0]]))
"""A tenth of a brain's length."""


@pytest.fixture
def register(run, files, tmp_path, monkeypatch):
    """Run ``register OPTIONS`` whose registration ends at a given map: status, output, summary."""

    def command(transform: Transform, *options, doubt: str = "") -> tuple[int, str, dict]:
        def register(fixed: Image, moving: Image, *_, **__):
            fixed.doubts += (doubt,) if doubt else ()
            return registered(fixed, moving, transform)

        monkeypatch.setattr(jobs, "register", register)
        code, out, _ = run("register", files.fixed, files.moving, "-o", tmp_path / "out", *options)
        return code, out, json.loads((tmp_path / "out" / "summary.json").read_text())

    return command


@pytest.mark.parametrize("strict", [(), ("--strict",)])
def test_a_good_result_passes(register, files, strict):
    code, out, summary = register(files.truth, *strict)
    assert code == 0
    assert "verdict: pass\n" in out
    assert (summary["verdict"], summary["reasons"]) == ("pass", [])
    assert set(summary["evidence"]) == set(Evidence.__annotations__)
    assert summary["evidence"]["overlap"] > 0.95


@pytest.mark.parametrize(("strict", "status"), [((), 0), (("--strict",), 3)])
def test_a_failure_is_written_whole_and_told(register, files, tmp_path, strict, status):
    """With ``--strict`` as exit status, too."""
    code, out, summary = register(files.truth @ AWAY, *strict)
    assert code == status
    assert summary["verdict"] == "fail"
    assert len(summary["reasons"]) > 1
    lines = out.replace("\n    ", " ").splitlines()  # the terminal wraps long ones
    told = " ".join(lines[lines.index("verdict: fail") + 1 :]).split()
    assert told == " ".join(summary["reasons"]).split()
    assert {"warped.nii.gz", "transform.h5", "transform.safetensors"} <= {
        item.name for item in (tmp_path / "out").iterdir()
    }
    page = html.unescape((tmp_path / "out" / "report.html").read_text())
    assert all(reason in page for reason in summary["reasons"])


def test_a_doubt_is_to_be_looked_at_and_no_failure(register, files, tmp_path):
    code, out, summary = register(files.truth, "--strict", doubt="orientation unknown")
    assert code == 0
    assert "verdict: check\n  orientation unknown\n" in out
    assert (summary["verdict"], summary["reasons"]) == ("check", ["orientation unknown"])
    assert summary["notes"] == ["orientation unknown"]
    assert "orientation unknown" in (tmp_path / "out" / "report.html").read_text()


def test_the_verdict_is_printed_whatever_it_is(register, files):
    """Whole registrations tell it in `tests/end_to_end`."""
    for transform, level in ((files.truth, "pass"), (files.truth @ AWAY, "fail")):
        assert f"verdict: {level}" in register(transform, "--overwrite")[1]


# Whole registrations of the small pair


def mean_error_mm(files, folder) -> float:
    found = load_transform(folder / "transform.h5")(files.points)
    return float((found - files.truth(files.points)).norm(dim=-1).mean())


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_a_background_of_nan_is_refused_unless_it_is_named(run, files, tmp_path, side):
    """One line that names the remedy, and the map as before with it."""
    image = load_image(files.folder / f"{side}.nii.gz")
    voxels = torch.where(image.data > 0.01, image.data.float(), torch.nan)
    save_image(Image(voxels, image.grid), tmp_path / f"{side}.nii.gz")
    pair = {"fixed": files.fixed, "moving": files.moving, side: tmp_path / f"{side}.nii.gz"}
    command = ("register", pair["fixed"], pair["moving"], "-o", tmp_path / "out", "--model", files.model)
    command += NO_SEARCH
    code, _, error = run(*command)
    assert code == 2
    assert error.count("\n") == 1
    assert "must be finite everywhere" in error
    assert "--background nan" in error
    code, out, _ = run(*command, "--background", "nan")
    assert code == 0
    assert "verdict: pass" in out
    assert mean_error_mm(files, tmp_path / "out") < 0.2  # voxels are 0.33 mm, and the surface is cut
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["similarity_after"] > 0.97
    assert summary["similarity_before"] < summary["similarity_after"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert run("report", tmp_path / "out")[0] == 0
    again = (tmp_path / "out" / "report.html").read_text()
    assert text_of(again) == text_of(page)


def test_a_lesion_is_ignored_in_both_images(run, files, tmp_path):
    """Bright in one image and dark in the other, in different places."""
    masks, pair = {}, {}
    for side, center, value in (("fixed", (1.5, 1.0, 0.5), 0.9), ("moving", (-1.0, -2.0, 1.0), 0.1)):
        image = load_image(files.folder / f"{side}.nii.gz")
        away = (image.grid.points_world() - torch.tensor(center)).norm(dim=-1)[:, None]
        pair[side], masks[side] = tmp_path / f"{side}.nii.gz", tmp_path / f"{side}_lesion.nii.gz"
        save_image(Image(torch.where(away < 1.0, value, image.data.float()), image.grid), pair[side])
        save_image(Image((away < 1.3).to(torch.uint8), image.grid), masks[side])
    command = ("register", pair["fixed"], pair["moving"], "-o", tmp_path / "out", "--model", files.model)
    options = ("--fixed-ignore", masks["fixed"], "--moving-ignore", masks["moving"])
    assert run(*command, *NO_SEARCH, *options)[0] == 0
    assert mean_error_mm(files, tmp_path / "out") < 0.2
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["notes"] == [f"{pair[side]}: {IGNORED}" for side in ("fixed", "moving")]
    assert summary["arguments"]["fixed_ignore"] == str(masks["fixed"])
    assert summary["arguments"]["moving_ignore"] == str(masks["moving"])
