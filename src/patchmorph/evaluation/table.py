"""The folder that an evaluation leaves: a row a pair, written as soon as it is known, and the means."""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.benchmark import PairResult
from patchmorph.io.atomic import whole_file

ROWS = "pairs.csv"
SUMMARY = "summary.json"


def check_evaluation(folder: Path, overwrite: bool) -> None:
    """Check, before any work starts, that a folder holds no evaluation, unless it may be replaced.

    Raises:
        PatchMorphError: it holds one.
    """
    found = [name for name in (ROWS, SUMMARY) if (folder / name).exists()]
    if found and not overwrite:
        raise PatchMorphError(
            f"output must be a folder without an earlier evaluation, or --overwrite given, got "
            f"{', '.join(found)} in {folder}"
        )


def written(results: Iterable[PairResult], folder: Path) -> Iterator[PairResult]:
    """The results, each after its row is in the table of ``folder``, which replaces an earlier evaluation."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY).unlink(missing_ok=True)
    with (folder / ROWS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(PairResult)])
        writer.writeheader()
        file.flush()
        for result in results:
            writer.writerow(asdict(result))
            file.flush()
            yield result


def write_means(summary: dict[str, Any], folder: Path) -> None:
    """Write ``summary.json``."""
    with whole_file(folder / SUMMARY) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
