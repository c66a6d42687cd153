"""What the page of an evaluation says of its tools: means, differences and plots."""

import math
from collections.abc import Iterator, Mapping

from markupsafe import Markup

from patchmorph.evaluation.comparison import Comparison, Evaluation, ToolMean
from patchmorph.evaluation.statistics import LEVEL
from patchmorph.report.embedding import environment
from patchmorph.report.plots import box_plot, patterns, scatter_plot, swatch

NAMES = {
    "dice": "Dice",
    "dice_aseg": "Dice, FreeSurfer's structures",
    "dice_cortex": "Dice, cortical parcels",
    "jaccard": "Jaccard",
    "target_overlap": "target overlap",
    "hd95_mm": "HD95 (mm)",
    "assd_mm": "ASSD (mm)",
    "ncc_after": "correlation after",
    "folding_percent": "folding (%)",
    "ndv_percent": "non-diffeomorphic volume (%)",
    "sd_log_jacobian": "SD of the log-Jacobian",
    "inverse_consistency_mm": "inverse consistency (mm)",
    "seconds": "seconds",
}
PLOTTED = ("dice", "hd95_mm")
"""Figures of structures with a box plot."""
SIGNIFICANT = 0.05


def render_tools(evaluation: Evaluation) -> Markup:
    """The section of a page."""
    text = (
        environment()
        .get_template("tools.html.j2")
        .render(
            patterns=patterns(),
            percent=round(100 * LEVEL),
            tools=evaluation.tools,
            legend=[(tool, swatch(k)) for k, tool in enumerate(evaluation.tools)],
            means=list(_means(evaluation)),
            comparisons=list(_comparisons(evaluation)),
            plots=list(_plots(evaluation)),
        )
    )
    return Markup(text)


def _means(evaluation: Evaluation) -> Iterator[tuple[str, list[str]]]:
    found = {(one.figure, one.tool): one for one in evaluation.means if one.structure is None}
    for figure, name in NAMES.items():
        cells = [_cell(found.get((figure, tool))) for tool in evaluation.tools]
        if any(cells):
            yield name, cells


def _cell(one: ToolMean | None) -> str:
    if one is None:
        return ""
    interval = one.interval
    between = f"{interval.low:.4g} to {interval.high:.4g}" if not interval.note else interval.note
    return f"{one.mean:.4g} ({between if one.pairs > 1 else '1 pair'})"


def _comparisons(evaluation: Evaluation) -> Iterator[tuple[str, ...]]:
    for one in evaluation.comparisons:
        if one.structure is not None:
            continue
        interval = (
            "" if math.isnan(one.interval.low) else f" ({one.interval.low:.3g} to {one.interval.high:.3g})"
        )
        mean = "" if math.isnan(one.difference) else f"{one.difference:+.3g}{interval}"
        yield (
            NAMES[one.figure],
            f"{one.first} minus {one.second}",
            str(one.pairs),
            mean,
            *("" if math.isnan(p) else f"{p:.2g}" for p in (one.p, one.p_holm)),
            _structures(evaluation, one),
            one.note,
        )


def _structures(evaluation: Evaluation, one: Comparison) -> str:
    """How many structures differ, for a figure that structures have."""
    same = [
        other
        for other in evaluation.comparisons
        if (other.figure, other.first, other.second) == (one.figure, one.first, one.second)
        and other.structure is not None
        and not math.isnan(other.p_holm)
    ]
    return f"{sum(other.p_holm < SIGNIFICANT for other in same)} of {len(same)}" if same else ""


def _plots(evaluation: Evaluation) -> Iterator[tuple[str, str, Markup]]:
    pairs = _dice_and_seconds(evaluation)
    if pairs:
        means = {tool: _middle(found) for tool, found in pairs.items()}
        left_out = [tool for tool in evaluation.tools if tool not in pairs]
        caption = "Small marks are pairs, large ones means."
        if left_out:
            caption += f" Without seconds: {', '.join(left_out)}."
        yield (
            "Dice against seconds",
            caption,
            scatter_plot(pairs, means, ("seconds", "Dice"), "Dice, seconds"),
        )
    for figure in PLOTTED:
        groups = {
            str(structure): {tool: list(found.values()) for tool, found in by_tool.items()}
            for (name, structure), by_tool in evaluation.values.items()
            if name == figure and structure is not None
        }
        if groups:
            caption = "Boxes span the quartiles of the pairs, with a line at the median."
            plot = box_plot(groups, evaluation.tools, f"{NAMES[figure]} by structure")
            yield f"{NAMES[figure]} by structure", caption, plot


def _dice_and_seconds(evaluation: Evaluation) -> Mapping[str, list[tuple[float, float]]]:
    dice, seconds = (evaluation.values.get((figure, None), {}) for figure in ("dice", "seconds"))
    found = {
        tool: [
            (seconds[tool][pair], value)
            for pair, value in dice[tool].items()
            if seconds[tool].get(pair, 0) > 0
        ]
        for tool in evaluation.tools
        if tool in dice and tool in seconds
    }
    return {tool: points for tool, points in found.items() if points}


def _middle(points: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(x for x, _ in points) / len(points), sum(y for _, y in points) / len(points)
