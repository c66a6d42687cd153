"""What the page of an evaluation shows of its tools: every number is there, and every plot has its marks."""

import math
import re

import pytest
from browser import Watched, chromium

from patchmorph.evaluation.benchmark import PairResult
from patchmorph.evaluation.comparison import Evaluation
from patchmorph.evaluation.structures import StructureResult
from patchmorph.report.cohort import Row, write_cohort
from patchmorph.report.plots import Axis, box_plot
from patchmorph.report.tools import render_tools

HOSTILE = "<b>\u202ex"
TOOLS = ("ours", "ants", HOSTILE)


def results(pairs: int = 8, seconds: float = 3.0, tools=TOOLS) -> list[PairResult]:
    def one(pair: int, k: int, tool: str) -> PairResult:
        dice = [0.8 + 0.01 * pair - 0.05 * k, 0.7 + 0.005 * pair + 0.02 * k]
        structures = [StructureResult(17 + j, x, x, x, 3 - x, 1 - x) for j, x in enumerate(dice)]
        took = math.nan if tool == "ants" else seconds + k + pair / 10
        return PairResult(
            f"{pair}.nii", "m.nii", took, dice=sum(dice) / 2, tool=tool, structures=tuple(structures)
        )

    return [one(pair, k, tool) for pair in range(pairs) for k, tool in enumerate(tools)]


def test_all_tools_figures_and_differences_are_in_the_section():
    text = render_tools(Evaluation.of(results()))
    for words in ("Dice against seconds", "Dice by structure", "HD95 (mm) by structure", "Differences"):
        assert f"<h2>{words}</h2>" in text
    assert "Without seconds: ants." in text
    assert "ours minus ants" in text
    assert "2 of 2" in text  # structures that differ
    assert text.count('text-anchor="end">17</text>') == 2
    # A box for each tool and structure, in two plots; the legend has one for each tool.
    assert len(re.findall(r'<g class="tool tool-\d"', text)) == 2 * 2 * 3 + 3


def test_everything_in_the_section_is_escaped():
    text = render_tools(Evaluation.of(results()))
    assert "<b>" not in text
    assert "\u202e" not in text


def test_tools_are_told_apart_by_patterns_and_shapes():
    text = render_tools(Evaluation.of(results()))
    fills = re.findall(r'<rect[^>]*fill="([^"]+)"', text)
    assert set(fills) == {"currentColor", "url(#pattern-1)", "url(#pattern-2)"}
    assert all(f'id="pattern-{k}"' in text for k in (1, 2))
    legend = text[text.index('class="legend"') : text.index("</ul>")]
    shapes = re.findall(r'<g class="mark tool-\d"><path d="([^"]+)"', legend)
    assert len(set(shapes)) == 3


def test_one_tool_without_labels_has_means_alone():
    own = [PairResult(f"{k}.nii", "m.nii", 3.0, ncc_after=0.9 + k / 100, tool="ours") for k in range(3)]
    text = render_tools(Evaluation.of(own))
    assert "<h2>Means</h2>" in text
    assert "0.91 (0.9 to 0.92)" in text
    assert "3 (all pairs are equal)" in text
    assert "Differences" not in text
    assert "plot" not in text


def test_pairs_that_all_failed_have_no_figures():
    failed = [PairResult("a", "b", tool="ours", error="broken")]
    assert '<svg class="plot"' not in render_tools(Evaluation.of(failed))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_values_are_points(count):
    values = [0.1 * k for k in range(count)]
    text = box_plot({"1": {"a": values}}, ["a"], "few")
    assert "<rect" not in text
    assert text.count('class="mark') == count


def test_a_box_spans_the_quartiles_and_far_values_are_points():
    values = [2.0, 3.0, 3.0, 4.0, 4.0, 5.0, 8.0, 20.0]  # 8 is a whisker's end
    text = box_plot({"1": {"a": values}}, ["a"], "one")
    axis = Axis.around(values, 120.0, 746.0)
    (start, width), *others = re.findall(r'<rect x="([\d.]+)"[^>]*?width="([\d.]+)"', text)
    assert not others
    assert float(start) == pytest.approx(axis.place(3.0), abs=0.06)
    assert float(start) + float(width) == pytest.approx(axis.place(5.75), abs=0.11)
    assert re.findall(r'<circle cx="([\d.]+)"', text) == [f"{axis.place(20.0):.1f}"]


@pytest.mark.parametrize(
    ("low", "high", "logarithmic", "expected"),
    [
        (0.0, 1.0, False, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.61, 0.93, False, [0.7, 0.8, 0.9]),
        (3.0, 250.0, True, [5, 10, 20, 50, 100, 200]),
    ],
)
def test_ticks_are_round(low, high, logarithmic, expected):
    assert Axis(low, high, 0.0, 1.0, logarithmic).ticks() == pytest.approx(expected)


def test_the_page_runs_under_its_policy_and_its_list_still_sorts(tmp_path):
    rows = [Row("a", "pass", "", {"Dice": 0.5}), Row("b", "pass", "", {"Dice": 0.4})]
    path = write_cohort(rows, tmp_path, "study", render_tools(Evaluation.of(results())))
    with chromium() as browser:
        watched = Watched(browser, path)
        watched.page.click("button:text-is('pair')")
        assert watched.page.locator(".cohort tbody th").all_inner_texts() == ["a", "b"]
        box = watched.page.locator("svg.plot").first.bounding_box()
        assert box["height"] > 100
        assert watched.complaints == []
        assert watched.asked == []
