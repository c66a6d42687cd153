"""Pictures of docs/template.md and docs/register.md: a copy of MNI152, moved by a known map, comes back.

    python benchmarks/pictures.py

The pictures of the page are its screenshots in headless Chromium (`pip install playwright`, `apt-get install
chromium`).
"""

import base64
import io
import re
import shutil
import tempfile
from pathlib import Path

from PIL import Image as Picture
from PIL import ImageDraw
from playwright.sync_api import sync_playwright

from patchmorph import demo
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.io.images import save_image
from patchmorph.jobs import RegistrationRequest, register_files
from patchmorph.report.cohort import Row, write_cohort
from patchmorph.results.summary import Summary
from patchmorph.transforms.resample import resample

IMAGES = Path(__file__).parents[1] / "docs" / "images"
FIGURES = {
    "template.png": ("before, by the headers", "after"),
    "deformation.png": ("deformed grid", "Jacobian determinant"),
}
"""Of the report, by what their rows show."""
PLANES = ("sagittal", "coronal", "axial")
TITLE = 24
"""Pixels of a title below its picture."""
CHROMIUM = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox", "--hide-scrollbars")
COLOURS = 256


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        template, _ = demo.mni152(2)
        pose, flow = demo.known_map(template.grid)
        grid = demo.moving_grid(pose, template.grid.center_world)
        save_image(resample(template, (pose @ flow).inverse(), grid), folder / "subject.nii.gz")
        pair = PairPaths(Path("mni152"), folder / "subject.nii.gz")
        results = folder / "results" / "subject"
        register_files(RegistrationRequest(pair, results))
        draw_figures((results / "report.html").read_text(encoding="utf-8"))
        draw_pages(results / "report.html", cohort_of(results, folder))


def draw_figures(page: str) -> None:
    """Two rows of the page's pictures in a file."""
    panels = dict(re.findall(r'alt="([^"]+)"[^>]* src="data:image/jpeg;base64,([^"]+)"', page))
    for file, rows in FIGURES.items():
        titles = [f"{plane}, {row}" for row in rows for plane in PLANES]
        save(mosaic([(title, panels[title]) for title in titles]), file)


def cohort_of(results: Path, folder: Path) -> Path:
    """A page of four pairs, all of them this one, with verdicts as they may be."""
    summary, rows = Summary.load(results), []
    after = summary.similarity_after
    for name, verdict, reason, similarity in (
        ("subject", summary.verdict, "", after),
        ("anna", "check", "rotation against the headers must be below 90°, got 112°", after - 0.01),
        ("ben", "fail", "overlap (Dice) of the foregrounds must be above 0.9, got 0.62", 0.41),
        ("carl", "failed", "image must have content larger than a point, got 0 bright voxels", float("nan")),
    ):
        page = folder / "results" / name / "report.html"
        if verdict != "failed" and not page.exists():
            page.parent.mkdir()
            shutil.copy(results / "report.html", page)
        rows.append(Row(name, verdict, reason, {"similarity": similarity}, page))
    return write_cohort(rows, folder, "study")


def draw_pages(report: Path, cohort: Path) -> None:
    """Screenshots of the viewer in three ways of comparing, and of the page of a cohort."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=list(CHROMIUM))
        page = browser.new_page(viewport={"width": 1100, "height": 700})
        page.goto(report.as_uri())
        page.wait_for_selector("#stage[data-complete]", timeout=120_000)
        page.select_option("#image-b", "before")
        save(picture_of(page.screenshot()), "report.png")
        page.select_option("#image-b", "warped")
        page.check("input[name=mode][value=agreement]")
        page.check("#layer-grid")
        save(picture_of(page.locator("#stage").screenshot()), "viewer.png")
        page.goto(cohort.as_uri())
        save(picture_of(page.screenshot(clip={"x": 0, "y": 0, "width": 1100, "height": 520})), "cohort.png")
        browser.close()


def picture_of(data: bytes) -> Picture.Image:
    return Picture.open(io.BytesIO(data)).convert("RGB")


def save(picture: Picture.Image, name: str) -> None:
    picture.quantize(COLOURS).save(IMAGES / name, optimize=True)


def mosaic(panels: list[tuple[str, str]]) -> Picture.Image:
    """Two rows of pictures with their titles below."""
    opened = [(title, picture_of(base64.b64decode(data))) for title, data in panels]
    rows = [opened[: len(PLANES)], opened[len(PLANES) :]]
    heights = [max(picture.height for _, picture in row) + TITLE for row in rows]
    whole = Picture.new("RGB", (sum(picture.width for _, picture in rows[0]), sum(heights)))
    for row, height, top in zip(rows, heights, (0, heights[0]), strict=True):
        left = 0
        for title, picture in row:
            whole.paste(picture, (left, top + (height - TITLE - picture.height) // 2))
            middle = (left + picture.width // 2, top + height - TITLE // 2)
            ImageDraw.Draw(whole).text(middle, title, "white", anchor="mm", font_size=14)
            left += picture.width
    return whole


if __name__ == "__main__":
    main()
