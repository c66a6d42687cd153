"""The page of a registration."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from synthetic import grid_around, rotation, smooth_image, smooth_velocity

from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.io.transforms.formats import save_transform
from patchmorph.report import figures, page
from patchmorph.report.figures import PairView
from patchmorph.report.page import render_pictures, render_report, write_report
from patchmorph.results.summary import Summary

GRID = grid_around((38, 44, 36), np.eye(3) * 4)


@pytest.fixture(scope="module")
def view() -> PairView:
    brain = smooth_image(GRID)
    transform = rotation(3) @ smooth_velocity(grid_around((30, 34, 28), np.eye(3) * 5), 2.0)
    return PairView(Image(brain.data, GRID, "<fixed> & co.nii.gz"), brain, transform)


@pytest.fixture
def summary() -> Summary:
    return Summary(
        fixed="<fixed> & co.nii.gz",
        moving="b",
        verdict="check",
        reasons=["folding must be below 1 %, got <2> %"],
        similarity_before=0.5,
        similarity_after=1 / 3,
        folding_percent=0.123456,
        sd_log_jacobian=0.25,
        evidence={"overlap": 0.98765},
        notes=["one", "two"],
        without_counterpart_percent=25.0,
        arguments={"seed": 3, "fixed_mask": None},
        versions={"torch": "x"},
        device="some CPU",
        peak_memory_gib=1.5,
        seconds={"register": 12.0, "to_write": 3},
        files={"fixed": "../a.nii.gz", "moving": "../b.nii.gz"},
    )


def test_the_page_escapes_names_and_rounds_its_numbers(view, summary, monkeypatch):
    monkeypatch.setattr(page, "png", lambda pixels: b"picture")
    text = render_report(render_pictures(view), summary)
    assert "&lt;fixed&gt; &amp; co.nii.gz" in text
    assert "<fixed>" not in text
    assert "<title>PatchMorph: b to &lt;fixed&gt;" in text
    assert re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td></tr>", text) == [
        ("fixed", "&lt;fixed&gt; &amp; co.nii.gz"),
        ("moving", "b"),
        ("verdict", "check"),
        ("reasons", "[&#39;folding must be below 1 %, got &lt;2&gt; %&#39;]"),
        ("similarity before", "0.5"),
        ("similarity after", "0.3333"),
        ("folding percent", "0.1235"),
        ("sd log jacobian", "0.25"),
        ("evidence: overlap", "0.9877"),
        ("notes", "[&#39;one&#39;, &#39;two&#39;]"),
        ("without counterpart percent", "25"),
        ("arguments: seed", "3"),
        ("arguments: fixed mask", "None"),
        ("versions: torch", "x"),
        ("device", "some CPU"),
        ("peak memory gib", "1.5"),
        ("seconds: register", "12"),
        ("seconds: to write", "3"),
        ("files: fixed", "../a.nii.gz"),
        ("files: moving", "../b.nii.gz"),
    ]
    assert "<li>folding must be below 1 %, got &lt;2&gt; %</li>" in text
    assert "http" not in text.replace("http-equiv", "")


def test_the_page_holds_each_figure_under_its_heading(view, summary):
    text = render_report(render_pictures(view), summary)
    shown = re.findall(r'<h2>(.*?)</h2>|alt="(.*?)" src="data:image/png;base64,([A-Za-z0-9+/=]*)"', text)
    planes, rows = ("sagittal", "coronal", "axial"), ("before, by the headers", "after")
    assert [heading or title for heading, title, _ in shown] == [
        "Verdict: check",
        "Before and after",
        *(f"{plane}, {row}" for row in rows for plane in planes),
        "Deformation",
        *(f"{plane}, {row}" for row in ("deformed grid", "Jacobian determinant") for plane in planes),
        "Numbers",
    ]
    with torch.no_grad():  # as the page computes maps, to the last digit
        panels = figures.comparison(view) + figures.deformation(view)
    for panel, picture in zip(panels, [data for *_, data in shown if data], strict=True):
        pixels = np.asarray(Picture.open(io.BytesIO(base64.b64decode(picture))))
        assert np.array_equal(pixels, panel.pixels)


def test_the_scale_of_colours_says_ratios_of_volumes(view, summary):
    text = render_report(render_pictures(view), summary)
    (scale,) = re.findall(r'<div class="volumes">(.*?)</div>', text)
    assert re.findall(r"<span>(.*?)</span>", scale) == ["1/4", "1/2", "1", "2", "4"]
    (gradient,) = re.findall(r"linear-gradient\(to right, (.*?)\)\"", text)
    assert gradient.startswith("rgb(33, 102, 172), ")  # blue, as pixels of a quarter of the volume
    assert gradient.endswith(", rgb(178, 24, 43)")


def test_the_page_of_a_folder_is_that_of_its_files(view, summary, monkeypatch, tmp_path):
    """The images are where the summary records them, from the folder on."""
    shown = []

    def comparison(given: PairView):
        shown.append(given)
        return figures_comparison(given)

    figures_comparison = figures.comparison
    monkeypatch.setattr(figures, "comparison", comparison)
    monkeypatch.setattr(page, "png", lambda pixels: b"picture")
    folder = tmp_path / "deep" / "out"
    folder.mkdir(parents=True)
    save_image(view.fixed, tmp_path / "deep" / "a.nii.gz")
    save_image(Image(view.moving.data * 2, GRID), tmp_path / "b.nii.gz")
    save_transform(view.transform, folder / "transform.safetensors")
    replace(summary, files={"fixed": "../a.nii.gz", "moving": "../../b.nii.gz"}).save(folder)
    monkeypatch.chdir("/")
    assert write_report(folder) == folder / "report.html"
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "files: moving</td><td>../../b.nii.gz<" in text
    (given,) = shown
    torch.testing.assert_close(given.fixed.data, view.fixed.data)
    torch.testing.assert_close(given.moving.data, view.moving.data * 2)
    points = torch.tensor([[[0.0, 0, 0], [20, -30, 10], [-35, 12, -18]]])
    torch.testing.assert_close(given.transform(points), view.transform(points), atol=1e-2, rtol=0)
