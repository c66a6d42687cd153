"""The page and the folder that a registration leaves."""

import base64
import json
import math
import re

import numpy as np
import pytest
import torch
from synthetic import grid_around, rotation, smooth_image, smooth_velocity

from patchmorph.images.in_memory import Image
from patchmorph.io.images import load_image
from patchmorph.io.transforms.formats import load_transform
from patchmorph.registration.result import Registration
from patchmorph.report import figures
from patchmorph.report.page import render_report
from patchmorph.results.folder import write_registration
from patchmorph.transforms.affine import AffineTransform
from patchmorph.transforms.displacement import DisplacementField
from patchmorph.transforms.velocity import VelocityField

GRID = grid_around((38, 44, 36), np.eye(3) * 4)


@pytest.fixture(scope="module")
def brain() -> Image:
    return smooth_image(GRID)


@pytest.fixture(scope="module")
def registration(brain) -> Registration:
    fixed = Image(brain.data, GRID, "<fixed> & co.nii.gz")
    start = AffineTransform.identity()
    transform = rotation(3) @ smooth_velocity(grid_around((30, 34, 28), np.eye(3) * 5), 2.0)
    notes = ("One thing.", "Another.")
    return Registration(fixed, brain, transform, (start, transform), notes=notes, missing=0.25)


@pytest.fixture(scope="module")
def written(registration, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "out"
    summary = write_registration(registration, folder, {"register": 1.5}, {"versions": {"torch": "x"}})
    return folder, summary


def test_the_page_escapes_names_and_rounds_its_numbers(registration, monkeypatch):
    monkeypatch.setattr(figures, "png", lambda figure: b"picture")
    summary = {
        "fixed": registration.fixed.name,
        "moving": "b",
        "folding_percent": 0.123456,
        "notes": ["one", "two"],
        "seconds": {"register": 12.0, "to_write": 3},
    }
    page = render_report(registration, summary)
    assert "&lt;fixed&gt; &amp; co.nii.gz" in page
    assert "<fixed>" not in page
    assert "<title>PatchMorph: b to &lt;fixed&gt;" in page
    assert re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td></tr>", page)[2:] == [
        ("folding percent", "0.1235"),
        ("notes", "[&#39;one&#39;, &#39;two&#39;]"),
        ("seconds: register", "12"),
        ("seconds: to write", "3"),
    ]
    assert "http" not in page.replace("http-equiv", "")


def test_the_page_holds_each_figure_under_its_heading(registration, monkeypatch):
    monkeypatch.setattr(figures, "png", lambda figure: figure.axes[0].get_title().encode())
    page = render_report(registration, {"fixed": "a", "moving": "b"})
    shown = re.findall(r"<h2>(.*?)</h2>|data:image/png;base64,([A-Za-z0-9+/=]*)", page)
    assert [heading or base64.b64decode(picture).decode() for heading, picture in shown] == [
        "Before and after",
        "sagittal, before, by the headers",
        "Deformation",
        "sagittal, deformed grid",
        "Numbers",
    ]


def test_the_summary_says_what_was_measured(written, registration):
    folder, summary = written
    stored = json.loads((folder / "summary.json").read_text())
    assert stored == summary
    assert (stored["fixed"], stored["moving"]) == ("<fixed> & co.nii.gz", "synthetic")
    assert stored["notes"] == ["One thing.", "Another."]
    assert stored["without_counterpart_percent"] == 25
    assert stored["versions"] == {"torch": "x"}
    assert stored["seconds"]["register"] == 1.5
    assert stored["seconds"]["write"] > 0
    assert stored["folding_percent"] == 0
    assert stored["similarity_before"] == pytest.approx(1, abs=1e-3)  # the same image, interpolated
    assert 0.5 < stored["similarity_after"] < 0.99
    logs = registration.jacobian()[registration.fixed.normalized().data[0, 0] > 0.06].log()
    assert stored["sd_log_jacobian"] == pytest.approx(logs.std().item(), rel=0.01)
    assert "CPU" in stored["device"]
    assert 0.05 < stored["peak_memory_gib"] < 64  # a process with torch takes more, a test machine has less


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
    assert page.count("data:image/png;base64,iVBORw0KGgo") == 2  # how PNG files begin
    assert "without counterpart percent</td><td>25<" in page


def test_folds_are_per_cent_of_the_content(tmp_path, brain, monkeypatch):
    """φ turns round right of x = 1: that half of the brain folds, by the formula of the image."""
    monkeypatch.setattr(figures, "png", lambda figure: b"")
    points = GRID.points_world()
    displacement = torch.zeros_like(points)
    displacement[..., 0] = -1.5 * (points[..., 0] - 1).clamp(min=0)
    fold = DisplacementField(displacement.movedim(-1, 1), GRID)
    summary = write_registration(Registration(brain, brain, fold, (fold,)), tmp_path, {"register": 0.0}, {})
    content = brain.normalized().data[0, 0] > 0.06
    share = ((content & (points[0, ..., 0] > 1)).sum() / content.sum()).item()
    assert 0.3 < share < 0.7
    assert summary["folding_percent"] == pytest.approx(100 * share, abs=0.1)
    # Logarithms of 1 and of 1e-9; the layer at x = 1 has a determinant between, which is 1 % off.
    assert summary["sd_log_jacobian"] == pytest.approx(math.log(1e9) * (share * (1 - share)) ** 0.5, rel=0.02)
    assert summary["without_counterpart_percent"] == 0


@pytest.mark.parametrize("variance", [None, 4.0])
def test_uncertainty_is_written_where_it_was_kept(tmp_path, brain, monkeypatch, variance):
    monkeypatch.setattr(figures, "png", lambda figure: b"")
    grid = grid_around((20, 22, 18), np.eye(3) * 10)
    kept = None if variance is None else torch.full((1, 1, *grid.shape), variance)
    field = VelocityField(torch.zeros(1, 3, *grid.shape), grid, variance=kept)
    write_registration(Registration(brain, brain, field, (field,)), tmp_path, {"register": 0.0}, {})
    path = tmp_path / "uncertainty.nii.gz"
    assert path.exists() == (variance is not None)
    if variance is not None:  # the standard deviation in mm
        middle = load_image(path).data[0, 0, 15:25, 15:25, 15:25]
        torch.testing.assert_close(middle, torch.full_like(middle, 2.0))
