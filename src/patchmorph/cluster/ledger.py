"""The table of a cohort: a row for each pair that is done, from which a later run goes on."""

import csv
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from patchmorph.io.atomic import whole_file, writing
from patchmorph.io.tables import read_rows
from patchmorph.io.unfinished import alone_in
from patchmorph.report.cohort import FAILED, Row
from patchmorph.results.folder import REPORT
from patchmorph.results.summary import SUMMARY, Summary

TABLE = "cohort.csv"
RESULTS = "results"
"""Folder of the results folders, in that of the cohort."""


@dataclass(frozen=True)
class Outcome:
    """How a pair ended.

    Attributes:
        name: of the pair.
        verdict: that of its summary, or `FAILED`.
        reasons: of the verdict, or why the pair could not be registered; one line.
        similarity_after: see `Summary`; as those that follow, empty for pairs that failed.
        folding_percent: see there.
        seconds: of the registration, with reading and writing.
        fixed: path of the image.
        moving: likewise.
        fingerprint: see `patchmorph.cluster.cohort.Task`.
        source: likewise.
    """

    name: str
    verdict: str
    reasons: str = ""
    similarity_after: float | str = ""
    folding_percent: float | str = ""
    seconds: float | str = ""
    fixed: str = ""
    moving: str = ""
    fingerprint: str = ""
    source: str = ""

    @classmethod
    def of(
        cls, name: str, summary: Summary, fingerprint: str, paths: tuple[Path, Path], source: str = ""
    ) -> "Outcome":
        """The outcome of a registration with this summary."""
        return cls(
            name,
            summary.verdict,
            "; ".join(summary.reasons),
            round(summary.similarity_after, 4),
            round(summary.folding_percent, 5),
            round(sum(summary.seconds.values()), 2),
            str(paths[0]),
            str(paths[1]),
            fingerprint,
            source,
        )


COLUMNS = tuple(field.name for field in fields(Outcome))
"""Of the table; those of earlier versions lack the last one."""


class Ledger:
    """The table in the folder of a cohort, written anew, whole, after each pair; several commands may do so.

    Args:
        folder: of the cohort.
    """

    def __init__(self, folder: Path):
        self.path = folder / TABLE
        self._outcomes = self._read()

    def _read(self) -> dict[str, Outcome]:
        if not self.path.exists():
            return {}
        rows = read_rows(self.path, "table of the cohort", COLUMNS[:-1], may_be_empty=True)
        known = [{key: text for key, text in row.cells.items() if key in COLUMNS} for row in rows]
        return {cells["name"]: Outcome(**cells) for cells in known}

    def is_done(self, name: str, fingerprint: str, folder: Path) -> bool:
        """Whether a pair was registered with this fingerprint, and ``folder`` still holds its results."""
        outcome = self._outcomes.get(name)
        if outcome is None or outcome.verdict == FAILED or outcome.fingerprint != fingerprint:
            return False
        return (folder / SUMMARY).is_file()

    def add(self, outcome: Outcome) -> None:
        """Record how a pair ended."""
        with self._changing():
            self._outcomes[outcome.name] = outcome

    def keep(self, names: Sequence[str], source: str) -> None:
        """Leave out the rows of a source whose pairs are not among ``names``; those begin the table."""
        with self._changing():
            own = {
                name: replace(self._outcomes.pop(name), source=source)
                for name in names
                if name in self._outcomes
            }
            others = {name: row for name, row in self._outcomes.items() if row.source not in ("", source)}
            self._outcomes = own | others

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Within the block the rows, as they are in the file, can be changed; then they are written."""
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with alone_in(self.path.parent):
            self._outcomes = self._read()
            yield
            with (
                whole_file(self.path) as temporary,
                temporary.open("w", newline="", encoding="utf-8") as file,
            ):
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(asdict(outcome) for outcome in self._outcomes.values())

    def outcomes(self) -> list[Outcome]:
        """All rows."""
        return list(self._outcomes.values())


def row_of(outcome: Outcome, folder: Path) -> Row:
    """An outcome as the page of the cohort in ``folder`` lists it."""
    figures = {
        "similarity": outcome.similarity_after,
        "folding (%)": outcome.folding_percent,
        "seconds": outcome.seconds,
    }
    numbers = {name: math.nan if value == "" else float(value) for name, value in figures.items()}
    page = None if outcome.verdict == FAILED else folder / RESULTS / outcome.name / REPORT
    return Row(outcome.name, outcome.verdict, outcome.reasons, numbers, page)
