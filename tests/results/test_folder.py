"""The folder that a registration of two files leaves, with a known map in the place of a registration."""

import json
import math
import re

import numpy as np
import pytest
import torch
from markupsafe import Markup
from registered import registered
from synthetic import grid_around, rotation, smooth_image, smooth_velocity

from patchmorph import jobs
from patchmorph.api import Method
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image, save_image
from patchmorph.io.transforms.formats import load_transform
from patchmorph.jobs import RegistrationRequest, register_files
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.result import Registration
from patchmorph.report import page
from patchmorph.results.folder import ALL, DEFAULT, FILES, saved, write_images
from patchmorph.results.summary import Summary
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.velocity import VelocityField

GRID = grid_around((38, 44, 36), np.eye(3) * 4)


@pytest.fixture(scope="module")
def brain() -> Image:
    return smooth_image(GRID)


@pytest.fixture(scope="module")
def registration(brain) -> Registration:
    start = AffineTransform.identity()
    transform = rotation(3) @ smooth_velocity(grid_around((30, 34, 28), np.eye(3) * 5), 2.0)
    notes = ("One thing.", "Another.")
    return registered(brain, brain, start, transform, remarks=notes)


def registered_as(
    registration: Registration, folder, patch: pytest.MonkeyPatch, overwrite=False, save=(ALL,)
) -> Summary:
    """Register the files of both images into ``folder``, where a registration has a given result."""
    paths = [folder.parent / name for name in ("<fixed> & co.nii.gz", "moving.nii.gz")]
    for image, path in zip((registration.fixed, registration.moving), paths, strict=True):
        save_image(image, path)
    patch.setattr(jobs, "register", lambda **given: registration)
    method = Method(device="cpu", seed=4)
    return register_files(RegistrationRequest(PairPaths(*paths), folder, method, save, overwrite=overwrite))


@pytest.fixture(scope="module")
def written(registration, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PreparedPair, "fraction_without_counterpart", lambda *given: 0.25)
        return folder, registered_as(registration, folder, patch)


def test_the_summary_holds_what_was_measured(written, registration):
    folder, summary = written
    content = json.loads((folder / "summary.json").read_text())
    assert Summary(**content) == summary
    assert summary.fixed == str(folder.parent / "<fixed> & co.nii.gz")
    assert summary.moving == str(folder.parent / "moving.nii.gz")
    assert summary.files == {"fixed": "../<fixed> & co.nii.gz", "moving": "../moving.nii.gz"}
    assert summary.notes == ["One thing.", "Another."]
    assert summary.without_counterpart_percent == 25
    assert summary.versions["torch"] == torch.__version__
    assert summary.arguments["seed"] == 4
    assert all(summary.seconds[step] > 0 for step in ("load", "register", "write"))
    assert summary.folding_percent == 0
    assert summary.similarity_before == pytest.approx(1, abs=1e-3)  # the same image, interpolated
    assert 0.5 < summary.similarity_after < 0.99
    logs = registration.jacobian()[registration.fixed.normalized().values()[0, 0] > 0.06].log()
    assert summary.sd_log_jacobian == pytest.approx(logs.std().item(), rel=0.01)
    assert "CPU" in summary.device
    assert 0.05 < summary.peak_memory_gib < 64  # a process with torch takes more, a test machine has less


def test_the_folder_holds_the_map_both_ways_and_the_warped_image(written, registration):
    folder, _ = written
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "warped.nii.gz",
        "transform.safetensors",
        "transform.h5",
        "inverse_transform.h5",
        "report.html",
        "summary.json",
        "patchmorph.log",
    }
    warped = load_image(folder / "warped.nii.gz")
    torch.testing.assert_close(warped.data, registration.warped().data)
    torch.testing.assert_close(warped.grid.voxel_to_world, GRID.voxel_to_world)
    points = torch.tensor([[[0.0, 0, 0], [20, -30, 10], [-35, 12, -18]]])
    mapped = registration.transform(points)
    assert ((mapped - points).norm(dim=-1) > 0.1).all()
    for name in ("transform.safetensors", "transform.h5"):
        # Files hold the field as displacements at its grid's points: interpolation within 0.05 mm.
        found = load_transform(folder / name)(points)
        torch.testing.assert_close(found, mapped, atol=0.05, rtol=0)
    back = load_transform(folder / "inverse_transform.h5")(mapped)
    torch.testing.assert_close(back, points, atol=0.1, rtol=0)
    page = (folder / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,/9j/") == 21  # how JPEG files begin
    assert 'without counterpart</td><td class="number">0.25<' in page
    assert "&lt;fixed&gt; &amp; co.nii.gz" in page
    assert "<fixed>" not in page


def test_the_log_holds_the_request_each_step_with_its_time_and_the_verdict(written):
    folder, summary = written
    lines = (folder / "patchmorph.log").read_text().splitlines()
    assert all(re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", line) for line in lines)
    text = "\n".join(line[24:] for line in lines)
    assert f"patchmorph {summary.versions['patchmorph']}, torch {torch.__version__}" in text
    assert "'seed': 4" in text
    assert re.search(r"^ *read: \d+\.\d\d s$", text, re.MULTILINE)
    assert re.search(r"^ *report: \d+\.\d\d s$", text, re.MULTILINE)
    assert "One thing." in text
    assert text.endswith(f"verdict: {summary.verdict}")


@pytest.mark.parametrize("key", [key for key in FILES if key != "uncertainty"])
def test_only_what_was_chosen_is_saved(registration, monkeypatch, tmp_path, key):
    registered_as(registration, tmp_path / "out", monkeypatch, save=(key,))
    assert [path.name for path in (tmp_path / "out").iterdir()] == [FILES[key]]


def test_the_inverse_is_saved_on_request_only():
    assert saved(DEFAULT) == ("warped", "transform", "itk", "report", "summary", "log")
    assert saved([ALL]) == ("warped", "transform", "itk", "inverse", "report", "summary", "log")
    assert saved([" inverse ", "warped", "inverse"]) == ("inverse", "warped")


@pytest.mark.parametrize("choice", [[], [""], ["warp"], ["warped", "moved"]])
def test_an_unknown_choice_is_refused_before_any_work(choice, tmp_path):
    message = r"what is saved must be among warped, .*, log or all, got (nothing|warp|moved)$"
    paths = PairPaths(tmp_path / "a", tmp_path / "b")
    with pytest.raises(PatchMorphError, match=message):
        register_files(RegistrationRequest(paths, tmp_path / "c", save=tuple(choice)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x.nii.gz", "x.mgz", "x.nii"])
def test_the_name_of_an_image_file_is_no_folder(name, tmp_path):
    request = RegistrationRequest(PairPaths(tmp_path / "a", tmp_path / "b"), tmp_path / name)
    with pytest.raises(PatchMorphError, match=f"output must be a folder, got the name of an image.*{name}$"):
        register_files(request)
    assert not list(tmp_path.iterdir())


def test_files_of_other_names_in_the_folder_stay(brain, monkeypatch, tmp_path):
    monkeypatch.setattr(page, "jpeg_url", lambda pixels: Markup())
    folder, identity = tmp_path / "out", AffineTransform.identity()
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    (folder / "summary.json").write_text("old")
    (folder / "uncertainty.nii.gz").write_text("old")
    registration = registered(brain, brain, identity)
    with pytest.raises(
        PatchMorphError, match=r"or --overwrite given, got uncertainty.nii.gz, summary.json in"
    ):
        registered_as(registration, folder, monkeypatch)
    assert {path.read_text() for path in folder.iterdir()} == {"mine", "old"}
    summary = registered_as(registration, folder, monkeypatch, overwrite=True)
    assert (folder / "mine.txt").read_text() == "mine"
    assert Summary.load(folder) == summary
    assert not (folder / "uncertainty.nii.gz").exists()


def test_nothing_is_left_of_a_registration_that_fails(registration, monkeypatch, tmp_path):
    """Here in its last step, the page."""

    def fail(pixels):
        raise KeyboardInterrupt

    monkeypatch.setattr(page, "jpeg_url", fail)
    with pytest.raises(KeyboardInterrupt):
        registered_as(registration, tmp_path / "out", monkeypatch)
    assert {path.name for path in tmp_path.iterdir()} == {"<fixed> & co.nii.gz", "moving.nii.gz"}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "warped.nii.gz").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        registered_as(registration, tmp_path / "out", monkeypatch, overwrite=True)
    assert [(path.name, path.read_text()) for path in (tmp_path / "out").iterdir()] == [
        ("warped.nii.gz", "old")
    ]


def test_folds_are_per_cent_of_the_content(tmp_path, brain, monkeypatch):
    """φ turns round right of x = 1: that half of the brain folds, by the formula of the image."""
    monkeypatch.setattr(page, "jpeg_url", lambda pixels: Markup())
    points = GRID.points_world()
    displacement = torch.zeros_like(points)
    displacement[..., 0] = -1.5 * (points[..., 0] - 1).clamp(min=0)
    fold = DisplacementField(displacement.movedim(-1, 1), GRID)
    summary = registered_as(registered(brain, brain, fold), tmp_path / "out", monkeypatch)
    content = brain.normalized().values()[0, 0] > 0.06
    fraction = ((content & (points[0, ..., 0] > 1)).sum() / content.sum()).item()
    assert 0.3 < fraction < 0.7
    assert summary.folding_percent == pytest.approx(100 * fraction, abs=0.1)
    # Logarithms of 1 and of 1e-9; the layer at x = 1 has a determinant between, which is 1 % off.
    expected = math.log(1e9) * (fraction * (1 - fraction)) ** 0.5
    assert summary.sd_log_jacobian == pytest.approx(expected, rel=0.02)
    assert summary.without_counterpart_percent == 0


@pytest.mark.parametrize("variance", [None, 4.0])
def test_uncertainty_is_written_where_it_was_kept(tmp_path, brain, variance):
    grid = grid_around((20, 22, 18), np.eye(3) * 10)
    kept = None if variance is None else torch.full((1, 1, *grid.shape), variance)
    field = VelocityField(torch.zeros(1, 3, *grid.shape), grid, variance=kept)
    registration = registered(brain, brain, field)
    save = DEFAULT if variance is None else (*DEFAULT, "uncertainty")
    write_images(registration, registration.warped(), tmp_path, save)
    path = tmp_path / "uncertainty.nii.gz"
    assert path.exists() == (variance is not None)
    if variance is not None:  # the standard deviation in mm
        middle = load_image(path).data[0, 0, 15:25, 15:25, 15:25]
        torch.testing.assert_close(middle, torch.full_like(middle, 2.0))
