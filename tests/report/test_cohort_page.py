"""The page of a cohort: the worst pairs first, sorted by what a reader clicks, with links to their pages."""

import math
import re
from pathlib import Path

import pytest
from browser import Watched, chromium

from patchmorph.errors import PatchMorphError
from patchmorph.report.cohort import Row, render_cohort, write_cohort

ICON = '<link rel="icon" type="image/jpeg" href="data:image/jpeg;base64,{}">'
HOSTILE = "<b>&\u202ex"


def rows(folder: Path) -> list[Row]:
    for name, icon in (("good one", "R09PRA=="), ("poor", "UE9PUg==")):
        page = folder / "results" / name / "report.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"<html>{ICON.format(icon)}")

    def page(name: str) -> Path:
        return folder / "results" / name / "report.html"

    empty = {"nothing": math.nan}
    return [
        Row("good one", "pass", "", {**empty, "similarity": 0.95, "seconds": 9.0}, page("good one")),
        Row("poor", "fail", HOSTILE, {**empty, "similarity": 0.2, "seconds": 10.0}, page("poor")),
        Row("doubtful", "check", "folding", {**empty, "similarity": 0.9, "seconds": 100.0}, page("doubtful")),
        Row("fair", "check", "folding", {**empty, "similarity": 0.8, "seconds": 11.0}),
        Row("broken", "failed", "image must be whole", dict.fromkeys(("similarity", "seconds"), math.nan)),
    ]


def names(text: str) -> list[str]:
    return re.findall(r'<th scope="row" data-value="(.*?)">', text)


def test_the_worst_pairs_come_first(tmp_path):
    text = render_cohort(rows(tmp_path), tmp_path, "study")
    assert names(text) == ["broken", "poor", "fair", "doubtful", "good one"]
    assert "5 pairs: 1 pass, 2 check, 1 fail, 1 failed." in text
    assert re.findall(r'<button type="button">(.*?)<', text)[3:] == ["similarity", "seconds"]


def test_links_and_pictures_are_those_of_the_pairs_pages(tmp_path):
    text = render_cohort(rows(tmp_path), tmp_path, "study")
    links = ["results/poor/report.html", "results/good%20one/report.html"]
    assert re.findall(r'href="([^#]*?)">', text) == links
    pictures = dict(re.findall(r'<img alt="(\w+)[^"]*" src="data:image/jpeg;base64,(.*?)"', text))
    assert pictures == {"good": "R09PRA==", "poor": "UE9PUg=="}


def test_everything_is_escaped(tmp_path):
    text = render_cohort(rows(tmp_path), tmp_path, HOSTILE)
    assert "<b>" not in text
    assert "\u202e" not in text
    assert text.count("&lt;b&gt;&amp;\\u202ex") == 4  # twice in the head, twice in the row


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "index.html").mkdir()
    with pytest.raises(PatchMorphError):
        write_cohort([], tmp_path, "study")


def test_a_click_on_a_heading_sorts_the_rows(tmp_path):
    path = write_cohort(rows(tmp_path), tmp_path, "study")
    with chromium() as browser:
        watched = Watched(browser, path)

        def sorted_by(heading: str) -> list[str]:
            watched.page.click(f"button:text-is('{heading}')")
            return watched.page.locator("tbody th").all_inner_texts()

        assert sorted_by("seconds") == ["good one", "poor", "fair", "doubtful", "broken"]
        assert sorted_by("seconds") == ["doubtful", "fair", "poor", "good one", "broken"]
        assert sorted_by("pair") == ["broken", "doubtful", "fair", "good one", "poor"]
        assert watched.page.locator("th[aria-sort]").all_inner_texts() == ["pair"]
        assert sorted_by("verdict")[::4] == ["broken", "good one"]
        assert watched.complaints == []
        assert watched.asked == []
