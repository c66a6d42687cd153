"""The viewer in headless Chromium: what a reader clicks shows what it should."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Watched, chromium
from PIL import Image as Picture
from synthetic import AFFINES, grid_around, smooth_image

from patchmorph.images.volume import Image
from patchmorph.report.layers import PairView
from patchmorph.report.page import render_content, render_report
from patchmorph.results.summary import Summary
from patchmorph.transforms.base import AffineTransform
from patchmorph.transforms.resample import resample

STORED = Path(__file__).parent / "data" / "viewer.png"
SHIFT_MM = (12.0, 0.0, 0.0)
TOLERANCE = 12
"""Mean difference of the stored picture's bytes: fonts and antialiasing differ between versions of Chromium
by less than 4, while another plane or order of layers differs by 25."""


def view_of(grid, shift_mm=SHIFT_MM) -> PairView:
    """The moving image lies ``shift_mm`` off by the headers; labels are the bright part."""
    fixed = smooth_image(grid)
    shift = AffineTransform.translation(torch.tensor([shift_mm], dtype=torch.float64))
    moving = resample(fixed, shift.inverse(), grid)
    labels = Image((fixed.data > 0.3).to(torch.uint8), grid, "labels")
    return PairView(
        fixed,
        moving,
        shift,
        resample(moving, shift, grid),
        labels,
        labels,
        lambda grid: Image(torch.full((1, 1, *grid.shape), 0.5), grid, "uncertainty"),
    )


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    summary = Summary("a.nii", "b.nii", "pass", [], 0.5, 0.9, 0.0, 0.1, {}, [], 0.0, {}, {}, "CPU", 1.0, {})
    view = view_of(grid_around((48, 56, 44), AFFINES["LIA"] * 3.5))
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_report(render_content(view), summary), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def watched(browser, page_file) -> Watched:
    opened = Watched(browser, page_file)
    opened.page.wait_for_selector("#stage[data-complete], .failed", state="attached")
    assert opened.page.get_attribute("#stage", "data-failed") is None
    return opened


@pytest.fixture
def page(watched):
    """The page as it is opened."""
    opened = watched.page
    opened.evaluate("setMode('swipe')")
    for side, image in (("a", "fixed"), ("b", "warped")):
        opened.select_option(f"#image-{side}", image)
    for box in opened.query_selector_all("input[name=layer]:checked"):
        box.uncheck()
    opened.select_option("#arrangement", "three")
    opened.fill("#position", "50")
    return opened


def seen(page) -> np.ndarray:
    """The stage ``[v, u, 3]``."""
    picture = Picture.open(io.BytesIO(page.locator("#stage").screenshot()))
    return np.asarray(picture.convert("RGB")).astype(int)


def change(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


def coloured(picture: np.ndarray) -> float:
    """The part of the pixels that are not grey."""
    return float((np.ptp(picture, axis=-1) > 40).mean())


def test_the_picture_is_that_stored(page):
    picture = seen(page)
    assert picture.std() > 30
    if not STORED.exists():
        Picture.fromarray(picture.astype(np.uint8)).save(STORED, optimize=True)
    stored = np.asarray(Picture.open(STORED).convert("RGB")).astype(int)
    assert picture.shape == stored.shape
    assert change(picture, stored) < TOLERANCE
    assert change(picture[:, ::-1], stored) > TOLERANCE


def test_images_are_those_that_are_chosen(page):
    page.check("input[name=mode][value=a]")
    fixed = seen(page)
    page.check("input[name=mode][value=b]")
    assert change(fixed, seen(page)) < 3  # warped back
    page.select_option("#image-b", "before")
    assert change(fixed, seen(page)) > 8


def test_the_swipe_moves(page):
    page.select_option("#image-b", "before")
    pictures = {}
    for place in (0, 50, 100):
        page.fill("#position", str(place))
        pictures[place] = seen(page)
    page.check("input[name=mode][value=a]")
    assert change(pictures[100], seen(page)) < 0.5
    page.check("input[name=mode][value=b]")
    assert change(pictures[0], seen(page)) < 0.5
    assert change(pictures[50], pictures[0]) > 2
    assert change(pictures[50], pictures[100]) > 2
    page.check("input[name=mode][value=checker]")
    assert min(change(seen(page), pictures[place]) for place in pictures) > 1


def test_agreement_is_grey_and_disagreement_is_not(page):
    page.check("input[name=mode][value=agreement]")
    assert coloured(seen(page)) < 0.01
    page.select_option("#image-b", "before")
    assert coloured(seen(page)) > 0.05


def test_the_difference_of_what_agrees_is_black(page):
    page.check("input[name=mode][value=difference]")
    low = seen(page).mean()
    page.select_option("#image-b", "before")
    assert low < 5
    assert seen(page).mean() > 2 * low


def test_the_flicker_shows_both_in_turns(page):
    page.select_option("#image-b", "before")
    page.check("input[name=mode][value=flicker]")
    shown = page.evaluate(
        """async () => {
        const seen = new Set(), over = document.querySelector('.over'), until = performance.now() + 30000;
        while (seen.size < 2 && performance.now() < until) {
            seen.add(getComputedStyle(over).visibility);
            await new Promise(requestAnimationFrame);
        }
        return [...seen].sort();
    }"""
    )
    assert shown == ["hidden", "visible"]


@pytest.mark.parametrize("layer", ["labels", "grid", "jacobian", "uncertainty"])
def test_layers_come_and_go(page, layer):
    before = seen(page)
    page.check(f"#layer-{layer}")
    assert change(seen(page), before) > 1
    page.uncheck(f"#layer-{layer}")
    assert change(seen(page), before) < 0.1


def test_values_in_colours_lie_where_the_fixed_image_shows_something(page):
    def ends(found: np.ndarray) -> np.ndarray:
        return np.quantile(np.argwhere(found), (0.02, 0.98), axis=0)  # without letters and the crosshair

    page.check("input[name=mode][value=a]")
    page.select_option("#arrangement", "axial")
    bright = ends((seen(page).min(-1) > 60)[15:-15, 15:-15])
    page.check("#layer-uncertainty")
    page.fill("#opacity", "100")
    blue = ends((np.ptp(seen(page), axis=-1) > 40)[15:-15, 15:-15])
    page.fill("#opacity", "70")
    # Points of the map are 3.5 mm apart, of 170 mm, and the threshold of content is lower.
    assert np.abs(blue - bright).max() < 0.06 * np.ptp(bright, axis=0).max()


def test_the_mosaic_shows_many_planes(page):
    page.select_option("#arrangement", "mosaic")
    assert page.evaluate("overlay.tiles().length") == 18
    assert seen(page).std() > 30
    page.select_option("#arrangement", "axial")
    assert page.evaluate("overlay.tiles().map((tile) => tile.normal)") == [2]


def test_a_click_moves_the_crosshair_in_all_planes_and_reads_the_world(page, page_file):
    def numbers(number: int = 1) -> list[float]:
        text = page.inner_text(f"#readout div:nth-child({number}) dd")
        return [float(value) for value in re.findall(r"-?\d+\.\d", text)]

    before = numbers()
    box = page.locator("#stage").bounding_box()
    tile = page.evaluate("overlay.tiles()[0]")  # axial
    page.mouse.click(
        box["x"] + tile["left"] + 0.7 * tile["width"], box["y"] + tile["top"] + 0.25 * tile["height"]
    )
    after = numbers()
    assert after[2] == before[2]
    right, front = after[0] - before[0], after[1] - before[1]
    assert right == pytest.approx(0.2 * tile["width"] / tile["height"] * 3.5 * 56, abs=15)
    assert front == pytest.approx(0.25 * 3.5 * 56, abs=15)
    words = page.inner_text("#readout")
    assert re.search(r"shift\s+12\.0 mm", words)
    assert np.subtract(numbers(2), after) == pytest.approx(SHIFT_MM, abs=0.11)


def test_keys_move_and_compare(page):
    page.focus("#stage")
    crosshair = "Array.from(nv.scene.crosshairPos, (f, k) => Math.round(f * view.shape[k]))"
    before = page.evaluate(crosshair)
    for key in ("ArrowRight", "ArrowUp", "ArrowUp", "PageUp", "PageUp", "PageUp"):
        page.keyboard.press(key)
    assert page.evaluate(crosshair) == [before[0] + 1, before[1] + 3, before[2] + 2]
    page.keyboard.press("g")
    assert page.is_checked("input[name=mode][value=agreement]")


def test_a_phone_shows_it_in_the_dark(browser, page_file):
    phone = Watched(browser, page_file, 390, 800, color_scheme="dark", has_touch=True)
    phone.page.wait_for_selector("#stage[data-ready]", state="attached")
    assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert seen(phone.page).std() > 20
    assert phone.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 28)"
    phone.page.close()


def test_nothing_is_asked_of_the_network_and_nothing_complains(watched):
    assert watched.asked == []
    assert watched.complaints == []


def test_a_browser_without_webgl_shows_the_figures(browser, page_file):
    context = browser.new_context()
    context.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page = context.new_page()
    page.goto(page_file.as_uri())
    page.wait_for_selector("#viewer.failed", state="attached")
    assert page.is_visible(".broken")
    assert not page.is_visible("#stage")
    context.close()
