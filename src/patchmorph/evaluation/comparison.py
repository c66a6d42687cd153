"""Several tools on the same pairs: means with intervals, and paired tests."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch

from patchmorph.evaluation.benchmark import PairResult, summarize
from patchmorph.evaluation.statistics import Bootstrap, Interval, holm, signed_rank_test
from patchmorph.evaluation.structures import FIGURES as OF_STRUCTURES
from patchmorph.evaluation.structures import summarize_structures

OF_PAIRS = (
    *("dice", "dice_aseg", "dice_cortex", "jaccard", "target_overlap", "hd95_mm", "assd_mm"),
    *("ncc_after", "folding_percent", "ndv_percent", "sd_log_jacobian", "inverse_consistency_mm", "seconds"),
)
"""Figures of a pair that are compared; those of a structure are `OF_STRUCTURES`."""
SEED = 0

Pair = tuple[str, str]
Key = tuple[str, int | None]
"""A figure, and a structure or ``None`` for that of the pair."""
Values = dict[Key, dict[str, dict[Pair, float]]]
"""By key and tool, the figure of each pair that has it."""


@dataclass(frozen=True)
class ToolMean:
    """A figure of one tool.

    Attributes:
        figure: its name.
        structure: label; ``None``: of the pair.
        tool: its name.
        pairs: pairs that have the figure.
        mean: over these pairs.
        interval: of the mean.
    """

    figure: str
    structure: int | None
    tool: str
    pairs: int
    mean: float
    interval: Interval


@dataclass(frozen=True)
class Comparison:
    """A figure of two tools on the pairs for which both have it.

    Attributes:
        figure: its name.
        structure: label; ``None``: of the pair.
        first: a tool.
        second: another one.
        pairs: number of these pairs.
        difference: mean of ``first`` minus ``second``.
        interval: of this mean.
        p: two-sided, by Wilcoxon's signed-rank test; NaN where it is undefined.
        p_holm: the same corrected by Holm's method for all tests of the figure: those of all structures and
            tools, or for a figure of pairs those of all tools.
        note: why something is undefined.
    """

    figure: str
    structure: int | None
    first: str
    second: str
    pairs: int
    difference: float
    interval: Interval
    p: float
    p_holm: float = math.nan
    note: str = ""


@dataclass(frozen=True)
class Evaluation:
    """What follows from the results of an evaluation.

    Attributes:
        tools: their names, in the order of their first result.
        values: all figures.
        means: of each tool.
        comparisons: of every two tools.
    """

    tools: list[str]
    values: Values
    means: list[ToolMean]
    comparisons: list[Comparison]

    @classmethod
    def of(cls, results: Sequence[PairResult]) -> "Evaluation":
        """The means and comparisons of all results."""
        tools, values = tools_of(results), figures_by_tool(results)
        return cls(tools, values, tool_means(values), compare_tools(values, tools))


def tools_of(results: Sequence[PairResult]) -> list[str]:
    """Names of the tools, in the order of their first result."""
    return list(dict.fromkeys(result.tool for result in results))


def figures_by_tool(results: Sequence[PairResult]) -> Values:
    """All figures of pairs and structures. Those of a pair that is there several times are averaged."""
    lists: dict[Key, dict[str, dict[Pair, list[float]]]] = {}
    for result in results:
        for key, value in _figures(result):
            if not math.isnan(value):
                pairs = lists.setdefault(key, {}).setdefault(result.tool, {})
                pairs.setdefault((result.fixed, result.moving), []).append(value)
    return {
        key: {
            tool: {pair: fmean(values) for pair, values in pairs.items()}
            for tool, pairs in lists[key].items()
        }
        for key in sorted(lists, key=_order)
    }


def tool_means(values: Values) -> list[ToolMean]:
    """Each figure of each tool with the bootstrap interval of its mean."""
    bootstrap = _bootstrap()
    return [
        ToolMean(*key, tool, len(pairs), fmean(pairs.values()), bootstrap.interval(list(pairs.values())))
        for key, tools in values.items()
        for tool, pairs in tools.items()
    ]


def compare_tools(values: Values, tools: Sequence[str]) -> list[Comparison]:
    """Each figure of every two tools, on the pairs for which both have it."""
    bootstrap, found = _bootstrap(), list[Comparison]()
    for key, by_tool in values.items():
        for first, second in itertools.combinations(tools, 2):
            if first in by_tool and second in by_tool:
                found.append(_compared(key, first, second, by_tool, bootstrap))
    return _corrected(found)


def summarize_tools(results: Sequence[PairResult]) -> dict[str, dict[str, Any]]:
    """By tool: pairs that were measured and that failed, means of all figures, and of each structure."""
    found = {}
    for tool in tools_of(results):
        own = [result for result in results if result.tool == tool]
        done = [result for result in own if not result.error]
        found[tool] = {
            "pairs": len(done),
            "failed": len(own) - len(done),
            "mean": summarize(done),
            "structures": summarize_structures([result.structures for result in done]),
        }
    return found


def _figures(result: PairResult) -> Iterator[tuple[Key, float]]:
    for name in OF_PAIRS:
        yield (name, None), getattr(result, name)
    for one in result.structures:
        for name in OF_STRUCTURES:
            yield (name, one.label), getattr(one, name)


def _order(key: Key) -> tuple[bool, int, int]:
    """Figures of pairs first, then those of structures, by label."""
    figure, structure = key
    if structure is None:
        return False, OF_PAIRS.index(figure), 0
    return True, OF_STRUCTURES.index(figure), structure


def _compared(
    key: Key, first: str, second: str, by_tool: Mapping[str, Mapping[Pair, float]], bootstrap: Bootstrap
) -> Comparison:
    one, other = by_tool[first], by_tool[second]
    differences = [one[pair] - other[pair] for pair in one if pair in other]
    interval, test = bootstrap.interval(differences), signed_rank_test(differences)
    mean = fmean(differences) if differences else math.nan
    note = "; ".join(dict.fromkeys(filter(None, (test.note, interval.note))))
    return Comparison(*key, first, second, len(differences), mean, interval, test.p, note=note)


def _corrected(found: list[Comparison]) -> list[Comparison]:
    """The same with Holm's correction, figure by figure."""
    families: dict[tuple[str, bool], list[int]] = {}
    for k, one in enumerate(found):
        families.setdefault((one.figure, one.structure is None), []).append(k)
    corrected = list(found)
    for members in families.values():
        for k, p in zip(members, holm([found[k].p for k in members]), strict=True):
            corrected[k] = replace(found[k], p_holm=p)
    return corrected


def _bootstrap() -> Bootstrap:
    return Bootstrap(torch.Generator().manual_seed(SEED))
