"""The folder that an evaluation leaves: a row a pair, written as soon as it is known, and what follows."""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.benchmark import PairResult
from patchmorph.evaluation.comparison import Comparison, Evaluation, Key, ToolMean, summarize_tools
from patchmorph.io.atomic import whole_file, writing

ROWS = "pairs.csv"
PAIR = ("fixed", "moving", "transform", "tool")
"""Columns that name a pair, in both tables."""
SUMMARY = "summary.json"
STRUCTURES = "structures.csv"
TOOLS, COMPARISON = "tools.csv", "comparison.csv"
TABLES = (ROWS, STRUCTURES, TOOLS, COMPARISON, SUMMARY)
"""All that is written here."""
PER_STRUCTURE = "structures"
"""Field of a result that has a table of its own."""


def check_evaluation(folder: Path, overwrite: bool) -> None:
    """Check, before any work starts, that a folder holds no evaluation, unless it may be replaced.

    Raises:
        PatchMorphError: it holds one.
    """
    found = [name for name in TABLES if (folder / name).exists()]
    if found and not overwrite:
        raise PatchMorphError(
            f"output must be a folder without an earlier evaluation, or --overwrite given, got "
            f"{', '.join(found)} in {folder}"
        )


def written(results: Iterable[PairResult], folder: Path) -> Iterator[PairResult]:
    """The results, each after its row is in the table of ``folder``, which replaces an earlier evaluation.

    Raises:
        PatchMorphError: a table cannot be written.
    """
    columns = [field.name for field in fields(PairResult) if field.name != PER_STRUCTURE]
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in TABLES:
            (folder / name).unlink(missing_ok=True)
    _append([], columns, folder / ROWS)
    for result in results:
        row = asdict(result)
        structures = [{name: row[name] for name in PAIR} | one for one in row.pop(PER_STRUCTURE)]
        _append([row], columns, folder / ROWS)
        if structures:
            _append(structures, list(structures[0]), folder / STRUCTURES)
        yield result


def _append(rows: Sequence[dict[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Add rows to a table; a new one begins with its head.

    Raises:
        PatchMorphError: it cannot be written.
    """
    new = not path.exists()
    with writing(path), path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        if new:
            writer.writeheader()
        writer.writerows(rows)


def write_results(
    results: Sequence[PairResult], evaluation: Evaluation, how: dict[str, Any], folder: Path
) -> dict[str, dict[str, Any]]:
    """Write the tables of tools and ``summary.json``.

    Args:
        results: of all pairs.
        evaluation: what follows from them.
        how: what the summary says of the method.
        folder: there already.

    Returns:
        What the summary says of each tool.
    """
    tools = summarize_tools(results)
    for one in evaluation.means:
        if one.structure is None:
            ends = None if one.interval.note else [one.interval.low, one.interval.high]
            tools[one.tool].setdefault("interval", {})[one.figure] = ends
    write_tools(evaluation.means, folder)
    if len(tools) > 1:
        write_comparison(evaluation.comparisons, folder)
    failed = sum(bool(result.error) for result in results)
    single = next(iter(tools.values())) if len(tools) == 1 else {}
    counts = {"pairs": len(results) - failed, "failed": failed}
    comparison = [plain(one) for one in evaluation.comparisons]
    write_summary({**single, **counts, "tools": tools, "comparison": comparison, **how}, folder)
    return tools


def write_tools(means: Sequence[ToolMean], folder: Path) -> None:
    """Write ``tools.csv``: a row for each figure and structure, with columns for each tool."""
    rows: dict[Key, dict[str, Any]] = {}
    for one in means:
        ends = {"mean": one.mean, "low": one.interval.low, "high": one.interval.high}
        row = rows.setdefault((one.figure, one.structure), {"figure": one.figure, "structure": one.structure})
        row |= {f"{one.tool} {name}": value for name, value in {"pairs": one.pairs, **ends}.items()}
    _write(list(rows.values()), folder / TOOLS)


def write_comparison(found: Sequence[Comparison], folder: Path) -> None:
    """Write ``comparison.csv``: a row for each figure, structure and two tools."""
    _write([plain(one) for one in found], folder / COMPARISON)


def plain(one: Comparison | ToolMean) -> dict[str, Any]:
    """Its fields, with the ends of the interval among them."""
    cells = asdict(one)
    interval = cells.pop("interval")
    return cells | {name: interval[name] for name in ("low", "high")}


def _write(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def write_summary(summary: dict[str, Any], folder: Path) -> None:
    """Write ``summary.json``, in which null stands for what is undefined."""
    with whole_file(folder / SUMMARY) as temporary:
        text = json.dumps(_defined(summary), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _defined(value: Any) -> Any:
    """The same with ``None`` for each NaN."""
    if isinstance(value, dict):
        return {name: _defined(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_defined(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
