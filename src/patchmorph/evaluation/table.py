"""The folder that an evaluation leaves: a row a pair, written as soon as it is known, and the means."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.benchmark import PairResult
from patchmorph.io.atomic import whole_file

ROWS = "pairs.csv"
PAIR = ("fixed", "moving", "transform")
"""Columns that name a pair, in both tables."""
SUMMARY = "summary.json"
STRUCTURES = "structures.csv"
PER_STRUCTURE = "structures"
"""Field of a result that has a table of its own."""


def check_evaluation(folder: Path, overwrite: bool) -> None:
    """Check, before any work starts, that a folder holds no evaluation, unless it may be replaced.

    Raises:
        PatchMorphError: it holds one.
    """
    found = [name for name in (ROWS, STRUCTURES, SUMMARY) if (folder / name).exists()]
    if found and not overwrite:
        raise PatchMorphError(
            f"output must be a folder without an earlier evaluation, or --overwrite given, got "
            f"{', '.join(found)} in {folder}"
        )


def written(results: Iterable[PairResult], folder: Path) -> Iterator[PairResult]:
    """The results, each after its row is in the table of ``folder``, which replaces an earlier evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (SUMMARY, STRUCTURES):
        (folder / name).unlink(missing_ok=True)
    with (folder / ROWS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(
            file, [field.name for field in fields(PairResult) if field.name != PER_STRUCTURE]
        )
        writer.writeheader()
        file.flush()
        for result in results:
            row = asdict(result)
            structures = row.pop(PER_STRUCTURE)
            writer.writerow(row)
            file.flush()
            _append(structures, {name: row[name] for name in PAIR}, folder / STRUCTURES)
            yield result


def _append(structures: Sequence[dict[str, Any]], pair: dict[str, Any], path: Path) -> None:
    """Add a row for each label of a pair to the table of structures, which begins with the first of them."""
    if not structures:
        return
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*pair, *structures[0]])
        if new:
            writer.writeheader()
        writer.writerows(pair | one for one in structures)


def write_means(summary: dict[str, Any], folder: Path) -> None:
    """Write ``summary.json``."""
    with whole_file(folder / SUMMARY) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
