"""The page of a registration."""

import base64
import gzip
import hashlib
import io
import json
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from synthetic import AFFINES, grid_around, rotation, smooth_image, smooth_velocity

from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.io.transforms.formats import save_transform
from patchmorph.report import lattice, page
from patchmorph.report.embedding import hash_of, visible
from patchmorph.report.layers import Layers, PairView
from patchmorph.report.page import Content, render_content, render_report, write_report
from patchmorph.results.summary import Summary
from patchmorph.transforms.resample import resample

GRID = grid_around((38, 44, 36), AFFINES["LIA"] * 4)
HOSTILE = "<img src=x onerror=alert(1)>\u202egpj.nii.gz"


@pytest.fixture(scope="module")
def view() -> PairView:
    brain = smooth_image(GRID)
    transform = rotation(3) @ smooth_velocity(grid_around((30, 34, 28), np.eye(3) * 5), 2.0)
    inside = (brain.data > 0.3).to(torch.int16)
    labels = Image(inside + inside * (GRID.points_world()[None, ..., 0] > 0), GRID, "labels")
    return PairView(
        Image(brain.data, GRID, "fixed"),
        brain,
        transform,
        resample(brain, transform, GRID),
        labels,
        resample(labels, transform, GRID, "nearest"),
        lambda grid: Image(torch.full((1, 1, *grid.shape), 0.5), grid, "uncertainty"),
    )


@pytest.fixture(scope="module")
def content(view) -> Content:
    return render_content(view)


@pytest.fixture
def summary() -> Summary:
    return Summary(
        fixed="/some/where/<fixed> & co.nii.gz",
        moving="b",
        verdict="check",
        reasons=["folding must be below 1 %, got <2> %"],
        similarity_before=0.5,
        similarity_after=1 / 3,
        folding_percent=0.123456,
        sd_log_jacobian=0.25,
        evidence={"overlap": 0.98765, "local_correlation": 0.6, "scaling": float("nan")},
        notes=["one <b>", "two"],
        without_counterpart_percent=25.0,
        arguments={"seed": 3, "fixed_mask": "/some/where/mask.nii", "transform": "deformable"},
        versions={"torch": "x"},
        device="some CPU",
        peak_memory_gib=1.5,
        seconds={"register": 12.0, "write": 3},
        files={"fixed": "../a.nii.gz", "moving": "../b.nii.gz"},
        dice={"17": 0.75, "53": 0.25},
    )


def rows_of(text: str) -> dict[str, list[str]]:
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", text)]
    return {row[0]: row[1:] for row in rows if row}


def test_the_verdict_and_its_reasons_come_first(content, summary):
    text = render_report(content, summary)
    head = text[: text.index('id="viewer"')]
    assert re.search(r'class="verdict check">⚠ check</strong> Look at it', head)
    assert "<li>folding must be below 1 %, got &lt;2&gt; %</li>" in head


def test_numbers_have_what_is_usual_beside_them(content, summary):
    rows = rows_of(render_report(content, summary))
    assert rows["correlation of intensities, before"] == ["0.5", "", ""]
    after = rows["correlation of intensities, after"]
    assert after == ["0.333", "above 0.8, and above that before", "⚠ look"]
    assert rows["folded voxels of the fixed content"] == ["0.123 %", "below 0.1 %", "⚠ look"]
    assert rows["overlap (Dice) of the foregrounds"] == ["0.988", "above 0.94", "✓"]
    assert rows["local correlation of the images"] == ["0.6", "above 0.65", "⚠ look"]
    assert rows["scaling by the affine part"] == ["not defined", "below 1.4", "⚠ look"]
    assert float(rows["shift without the affine part, largest"][0].removesuffix(" mm")) > 1
    assert "Affine part of the map: rotation 3°" in render_report(content, summary)
    linear = replace(summary, arguments={"transform": "affine"})
    content.packed.view["monotone"] = False
    rows = rows_of(render_report(content, linear))
    content.packed.view["monotone"] = True
    assert rows["correlation of intensities, after"] == ["0.333", "anything: two contrasts", ""]
    usual = rows["local correlation of the images"]
    assert usual == ["0.6", "above 0.55", "✓"]


def test_dice_is_listed_by_structure(content, summary):
    text = render_report(content, summary)
    assert "Mean 0.500 over 2 labels" in text
    assert re.findall(r"<li><span>(\d+)</span><span>([\d.]+)</span>", text) == [
        ("17", "0.750"),
        ("53", "0.250"),
    ]
    assert "Overlap of labels" not in render_report(content, replace(summary, dice={}))


def test_paths_are_relative_and_everything_is_escaped(content, summary):
    hostile = replace(
        summary, moving=HOSTILE, notes=[HOSTILE], device=HOSTILE, files={"moving": f"../{HOSTILE}"}
    )
    text = render_report(content, hostile)
    assert "&lt;fixed&gt; &amp; co.nii.gz" in text
    assert "/some/where" not in text
    assert "<img src=x" not in text
    assert "\u202e" not in text
    assert "&gt;\\u202egpj.nii.gz" in text
    assert "http:" not in re.sub(r"<script.*?</script>|http-equiv", "", text, flags=re.DOTALL)


def test_the_command_makes_the_result_again(content, summary):
    text = render_report(content, summary)
    (command,) = re.findall(r"<pre>(.*?)</pre>", text)
    assert command == "patchmorph register ../a.nii.gz ../b.nii.gz -o again --seed 3 --fixed-mask mask.nii"


def test_characters_that_are_not_seen_are_spelt():
    assert visible("a\u202eb\u2066c\u200bd\x1be") == "a\\u202eb\\u2066c\\u200bd\\u001be"
    assert visible("Größe 3 µm, 脳\n") == "Größe 3 µm, 脳\n"


def test_the_policy_allows_the_scripts_and_styles_of_the_page_only(content, summary):
    text = render_report(content, summary)
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', text)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.replace("&#39;", "'").split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    (packed,) = re.findall(r'id="niivue">(.*?)</script>', text)
    library = zlib.decompress(base64.b64decode(packed), 31)
    assert rules["style-src"] == hash_of(style)
    assert rules["script-src"] == f"{hash_of(script)} {hash_of(library)}"
    assert not re.search(r' (style|on\w+)="', re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))


def test_the_viewer_is_the_published_build_with_its_licence():
    """NiiVue 0.68.1 as the wheel of nilearn 0.14.1 carries it."""
    folder = Path(page.__file__).parent / "viewer"
    library = gzip.decompress((folder / "niivue.umd.js.gz").read_bytes())
    assert hashlib.sha256(library).hexdigest().startswith("c40dc2679c337c906deef22e157ee02c")
    assert "BSD 2-Clause License" in (folder / "LICENSE-niivue.txt").read_text()


def test_every_picture_says_what_it_shows(content, summary):
    text = render_report(content, summary)
    pictures = re.findall(r'<img alt="(.*?)"[^>]*src="data:image/jpeg;base64,([^"]*)"', text)
    planes = ("sagittal", "coronal", "axial")
    rows = ("before, by the headers", "affine part only", "after", "difference", "labels")
    rows += ("deformed grid", "Jacobian determinant", "uncertainty")
    assert [title for title, _ in pictures[2:]] == [f"{plane}, {row}" for row in rows for plane in planes]
    assert all("edges" in title for title, _ in pictures[:2])
    for _, data in pictures:
        assert np.ptp(np.asarray(Picture.open(io.BytesIO(base64.b64decode(data))))) > 100


def unpacked(text: str, name: str, dtype=np.uint8) -> np.ndarray:
    (block,) = re.findall(rf'id="data-{name}">(.*?)</script>', text)
    return np.frombuffer(zlib.decompress(base64.b64decode(block)), dtype)


def test_the_layers_of_the_viewer_are_those_of_the_world(view, content, summary):
    """The value and the place of some voxels, read as the viewer reads them."""
    text = render_report(content, summary)
    what = json.loads(re.search(r'id="view">(.*?)</script>', text)[1])
    shape, to_world = what["shape"], np.array(what["toWorld"]).reshape(4, 4)
    assert np.allclose(np.sign(np.diag(to_world)[:3]), 1)  # RAS+
    low, high = what["images"][0]["window"]
    values = unpacked(text, "fixed").reshape(shape[::-1])
    moved = unpacked(text, "remainder").reshape(*what["map"]["shape"][::-1], 3)
    affine, step = np.array(what["map"]["affine"]).reshape(4, 4), what["map"]["step"]
    ids, labels = what["labels"]["ids"], unpacked(text, "labels-fixed").reshape(shape[::-1])
    for voxel in ((10, 20, 12), (20, 9, 17), (15, 30, 8)):
        point = torch.from_numpy(to_world @ (*voxel, 1))[None, None, :3].float()
        wanted = float(view.fixed.sample(point, 4.0))
        assert values[voxel[::-1]] / 255 * (high - low) + low == pytest.approx(wanted, abs=0.01)
        coarse = tuple(round(v / step) for v in voxel)
        at = np.array(coarse) * step
        there = at + (moved[coarse[::-1]].astype(float) - 127) * what["map"]["largest"] / 127
        found = affine @ to_world @ (*there, 1)
        exact = view.transform(torch.from_numpy(to_world @ (*at, 1))[None, None, :3].float())
        assert found[:3] == pytest.approx(exact.numpy()[0, 0], abs=0.2)  # bytes of some mm
        place = view.fixed_labels.grid.to_voxel(point)[0, 0].round().long().tolist()
        assert ids[labels[voxel[::-1]]] == int(view.fixed_labels.data[0, 0][tuple(place)])


def test_the_page_of_a_large_image_is_coarser(monkeypatch, view):
    monkeypatch.setattr(lattice, "MAX_VOXELS", 5000)
    shown = Layers(view)
    assert 3000 < np.prod(shown.lattice.shape) <= 5000
    assert shown.images["fixed"].values.shape == shown.lattice.shape
    whole = grid_around((38, 44, 36), AFFINES["LIA"] * 4)
    assert (shown.lattice.center_world - whole.center_world).abs().max() < 8


def test_the_page_of_a_folder_is_that_of_its_files(view, summary, monkeypatch, tmp_path):
    """The images are where the summary records them, from the folder on."""
    shown = []

    def render(given: PairView) -> Content:
        shown.append(given)
        return render_content(given)

    monkeypatch.setattr(page, "render_content", render)
    folder = tmp_path / "deep" / "out"
    folder.mkdir(parents=True)
    save_image(view.fixed, tmp_path / "deep" / "a.nii.gz")
    save_image(view.fixed_labels, tmp_path / "deep" / "l.nii.gz")
    save_image(view.warped_labels, folder / "warped_labels.nii.gz")
    save_image(Image(view.moving.data * 2, GRID), tmp_path / "b.nii.gz")
    save_transform(view.transform, folder / "transform.safetensors")
    files = {"fixed": "../a.nii.gz", "moving": "../../b.nii.gz", "fixed_labels": "../l.nii.gz"}
    replace(summary, files=files).save(folder)
    monkeypatch.chdir("/")
    assert write_report(folder) == folder / "report.html"
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert rows_of(text)["moving"] == ["../../b.nii.gz"]
    assert "Borders of labels" in text
    (given,) = shown
    torch.testing.assert_close(given.fixed.data, view.fixed.data)
    torch.testing.assert_close(given.moving.data, view.moving.data * 2)
    points = torch.tensor([[[0.0, 0, 0], [20, -30, 10], [-35, 12, -18]]])
    torch.testing.assert_close(given.transform(points), view.transform(points), atol=1e-2, rtol=0)
    torch.testing.assert_close(given.warped.data, view.warped.data * 2, atol=0.02, rtol=0)  # made again
    save_image(Image(view.warped.data * 3, GRID), folder / "warped.nii.gz")
    write_report(folder)
    torch.testing.assert_close(shown[1].warped.data, view.warped.data * 3)
