"""Tools are compared on the pairs that both have, figure by figure and structure by structure."""

import csv
import json
import math

import pytest
from scipy import stats

from patchmorph.evaluation.benchmark import PairResult
from patchmorph.evaluation.comparison import Evaluation
from patchmorph.evaluation.structures import StructureResult
from patchmorph.evaluation.table import write_results

PAIRS = 8
GAINS = {1: 0.05, 2: 0.0, 3: 0.01}
"""What the second tool adds to the Dice of each structure, more or less."""


def result(tool: str, pair: int, **figures) -> PairResult:
    """Dice that depends on the pair, and for the tool ``b`` on the structure, too."""
    structures = tuple(
        StructureResult(label, 0.7 + 0.01 * pair + gained(label, pair, tool), 0.5, 0.5, math.nan, math.nan)
        for label in GAINS
    )
    dice = sum(one.dice for one in structures) / len(structures)
    return PairResult(
        f"{pair}.nii", "m.nii", dice=dice, tool=tool, **{"structures": structures, "seconds": 2.0, **figures}
    )


def gained(label: int, pair: int, tool: str) -> float:
    sign = -1 if label == 3 and pair % 2 else 1
    return GAINS[label] * sign * (1 + pair / 10) if tool == "b" else 0.0


RESULTS = [result(tool, pair) for pair in range(PAIRS) for tool in "ab"]


def found(evaluation: Evaluation, figure: str, structure: int | None = None):
    (one,) = [one for one in evaluation.comparisons if (one.figure, one.structure) == (figure, structure)]
    return one


def test_differences_are_those_of_the_same_pairs():
    evaluation = Evaluation.of(RESULTS)
    assert evaluation.tools == ["a", "b"]
    one = found(evaluation, "dice", 1)
    expected = [-gained(1, pair, "b") for pair in range(PAIRS)]
    assert (one.first, one.second, one.pairs) == ("a", "b", PAIRS)
    assert one.difference == pytest.approx(sum(expected) / PAIRS)
    assert one.interval.low < one.difference < one.interval.high < 0
    assert one.p == pytest.approx(stats.wilcoxon(expected, method="exact").pvalue)
    means = {(one.figure, one.structure, one.tool): one for one in evaluation.means}
    assert means["dice", 1, "b"].mean - means["dice", 1, "a"].mean == pytest.approx(-one.difference)


def test_p_is_corrected_for_all_structures_and_tools_of_a_figure():
    """Structure 2 does not differ: it has no p and does not count, so the others have the factors 2 and 1."""
    evaluation = Evaluation.of(RESULTS)
    first, none, third = (found(evaluation, "dice", label) for label in (1, 2, 3))
    assert first.p_holm == pytest.approx(2 * first.p)
    assert third.p_holm == pytest.approx(third.p)
    assert math.isnan(none.p)
    assert math.isnan(none.p_holm)
    assert "no pair differs" in none.note
    three = Evaluation.of([*RESULTS, *(result("c", pair) for pair in range(PAIRS))])  # as a
    assert len(three.comparisons) == 3 * len(evaluation.comparisons)
    corrected = [one for one in three.comparisons if (one.figure, one.structure) == ("dice", 1)]
    assert [one.p_holm for one in corrected if not math.isnan(one.p)] == pytest.approx([4 * first.p] * 2)


@pytest.mark.parametrize(("lacking", "other"), ["ab", "ba"])
def test_a_pair_that_one_tool_lacks_is_left_out_of_their_comparison_alone(lacking, other):
    failed = PairResult("0.nii", "m.nii", tool=lacking, error="broken")
    kept = [one for one in RESULTS if (one.fixed, one.tool) != ("0.nii", lacking)]
    evaluation = Evaluation.of([*kept, failed])
    assert found(evaluation, "dice").pairs == PAIRS - 1
    pairs = {(one.tool, one.pairs) for one in evaluation.means if one.figure == "dice"}
    assert pairs == {(lacking, PAIRS - 1), (other, PAIRS)}


def test_few_pairs_have_a_reason_instead_of_a_number(tmp_path):
    evaluation = Evaluation.of(RESULTS[:4])
    one = found(evaluation, "dice", 1)
    assert math.isnan(one.p)
    assert one.note == "a test needs 6 pairs that differ, got 2"
    summary = write_results(RESULTS[:4], evaluation, {}, tmp_path)
    assert summary["a"]["interval"]["seconds"] is None  # all pairs are equal
    text = (tmp_path / "summary.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["comparison"][0]["p"] is None


def test_tables_have_a_row_a_figure_and_columns_by_tool(tmp_path):
    evaluation = Evaluation.of(RESULTS)
    write_results(RESULTS, evaluation, {"device": "cpu"}, tmp_path)
    with (tmp_path / "tools.csv").open() as file:
        rows = {(row["figure"], row["structure"]): row for row in csv.DictReader(file)}
    assert list(rows)[:2] == [("dice", ""), ("seconds", "")]
    row = rows["dice", "1"]
    assert list(row) == [
        *("figure", "structure"),
        *(f"{tool} {name}" for tool in "ab" for name in ("pairs", "mean", "low", "high")),
    ]
    assert float(row["b low"]) < float(row["b mean"]) < float(row["b high"])
    with (tmp_path / "comparison.csv").open() as file:
        compared = list(csv.DictReader(file))
    assert len(compared) == len(evaluation.comparisons)
    assert compared[0].keys() >= {"first", "second", "difference", "low", "high", "p", "p_holm", "note"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["pairs"], summary["failed"], summary["device"]) == (2 * PAIRS, 0, "cpu")
    assert summary["tools"]["b"]["structures"]["1"]["dice"] == pytest.approx(float(row["b mean"]))
    assert "mean" not in summary  # of different tools


def test_one_tool_has_means_and_nothing_to_compare(tmp_path):
    own = [one for one in RESULTS if one.tool == "a"]
    write_results(own, Evaluation.of(own), {}, tmp_path)
    assert not (tmp_path / "comparison.csv").exists()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["mean"] == summary["tools"]["a"]["mean"]


def test_a_pair_that_stands_twice_is_one_pair():
    doubled = [*RESULTS, *RESULTS[:2]]
    assert {one.pairs for one in Evaluation.of(doubled).comparisons} == {PAIRS}
