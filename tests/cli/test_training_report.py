"""``patchmorph report RUN``: curves, validation, patches, memory and rate, from the folder alone."""

import json
import re

import pytest
import yaml
from browser import Watched, chromium
from synthetic import AFFINES, grid_around, smooth_image
from tiny import config

from patchmorph.io.images import save_image
from patchmorph.training.record import LOG

STEPS = 600


@pytest.fixture
def folder(tmp_path):
    """The folder of a run and two images, as if it had been trained: the log grows and falls as stated."""
    for name in ("a", "b"):
        save_image(smooth_image(grid_around((40, 44, 38), AFFINES["RAS"] * 4)), tmp_path / f"{name}.nii.gz")
    run = tmp_path / "run"
    run.mkdir()
    chosen = config(tmp_path, data={"images": ["*.nii.gz"]}, run={"output": "run"})
    (run / "config.json").write_text(chosen.model_dump_json())
    with (run / LOG).open("w") as log:
        for step in range(1, STEPS + 1):
            figures = {"loss": 1 / step, "similarity/0": 0.5 / step, "similarity/1": 0.7 / step}
            rates = {"learning_rate": 1e-4, "steps_per_second": 12.5, "memory_gib": 1.0 + (step > 9)}
            log.write(json.dumps({"step": step, **figures, **rates}) + "\n")
            if step % 200 == 0:
                dice = 0.8 - 0.0001 * abs(step - 400)
                log.write(json.dumps({"step": step, "validation/dice": dice}) + "\n")
    return run


def test_the_page_has_all_curves_and_figures(run, folder):
    code, out, error = run("report", folder)
    assert (code, out) == (0, f"wrote {folder / 'report.html'}\n"), error
    page = (folder / "report.html").read_text()
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        *("Loss", "Validation: Dice", "Similarity", "Learning rate", "Steps per second"),
        *("Memory reserved on the GPU (GiB)", "Patches", "Configuration"),
    ]
    figures = dict(re.findall(r'<td>(.*?)</td><td class="number">(.*?)</td>', page))
    assert figures["validation: dice".capitalize()] == "0.78 (best 0.8, step 400)"
    assert figures["steps per second"].startswith("12.5 (median")
    assert figures["most memory reserved on the GPU"] == "2 GiB"
    assert figures["loss"] == "0.001667 (first 1)"


def test_lines_of_a_figure_share_a_plot_and_are_thinned(run, folder):
    run("report", folder)
    page = (folder / "report.html").read_text()
    similarity = page[page.index("<h2>Similarity") : page.index("<h2>Learning rate")]
    assert re.findall(r">(scale \d)</text>", similarity) == ["scale 1", "scale 0"]  # by their ends
    (first, second) = re.findall(r'<path d="M([^"]*L[^"]*)"', similarity)
    assert first.count("L") == second.count("L") == STEPS / 2 - 1


def test_patches_of_every_scale_are_shown(run, folder):
    run("report", folder)
    page = (folder / "report.html").read_text()
    shown = re.findall(r'<img alt="([^"]*)" src="data:image/jpeg;base64,', page)
    scales = json.loads((folder / "config.json").read_text())["model"]["spacings_mm"]
    assert [re.sub(r": .* of", ":", title) for title in shown] == [
        f"{name}.nii.gz: {spacing:g} mm" for name in "ab" for spacing in scales
    ]


def test_images_that_are_gone_are_said(run, folder):
    for path in folder.parent.glob("*.nii.gz"):
        path.unlink()
    assert run("report", folder)[0] == 0
    page = (folder / "report.html").read_text()
    assert "There are none: training images must exist, got nothing for *.nii.gz" in page


def test_names_in_a_log_are_escaped(run, folder):
    with (folder / LOG).open("a") as log:
        log.write(json.dumps({"step": STEPS + 1, "<script>": 1.0, "validation/<b>\u202e": 0.5}) + "\n")
    assert run("report", folder)[0] == 0
    page = (folder / "report.html").read_text()
    assert "<b>" not in page
    assert "\u202e" not in page
    assert "<script" not in page


def test_the_page_opens_offline_under_its_policy(run, folder):
    run("report", folder)
    with chromium() as browser:
        watched = Watched(browser, folder / "report.html")
        assert watched.page.locator("svg.plot").count() == 6
        assert watched.page.locator(".patches img").first.bounding_box()["width"] > 50
        assert watched.complaints == []
        assert watched.asked == []


@pytest.mark.parametrize("broken", [LOG, "config.json"])
def test_a_run_that_cannot_be_read_is_one_line(run, folder, broken):
    (folder / broken).write_text(yaml.safe_dump(["something", "else"]))
    code, _, error = run("report", folder)
    assert code == 2
    assert error.count("\n") == 1
    assert "must be that of a training" in error
    assert not (folder / "report.html").exists()
