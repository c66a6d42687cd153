"""The page of a cohort: a row for each pair, the worst first, with links to the pages of the pairs."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from patchmorph.io.atomic import whole_file
from patchmorph.registration.verdict import LEVELS
from patchmorph.report.embedding import asset, environment, hash_of, policy
from patchmorph.report.verdicts import VERDICTS

INDEX = "index.html"
FAILED = "failed"
"""Stands for the verdict of a pair that could not be registered."""
WORST_FIRST = (FAILED, *reversed(LEVELS))
NOTHING = Markup("")
HEAD = 1 << 16
"""Characters at the start of a pair's page that hold its icon."""
ICON = re.compile(r'<link rel="icon"[^>]*href="(data:image/jpeg;base64,[A-Za-z0-9+/=]+)"')


@dataclass(frozen=True)
class Row:
    """A pair as the page lists it.

    Attributes:
        name: of the pair.
        verdict: ``pass``, ``check``, ``fail``, or `FAILED`.
        reasons: of the verdict, or why the pair could not be registered.
        numbers: figures by the names of their columns, NaN where there is none. Pairs of one verdict are
            ordered by the first column of which any pair has a figure; small is worse.
        page: the pair's own page, if it has one.
    """

    name: str
    verdict: str
    reasons: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    page: Path | None = None

    @property
    def rank(self) -> int:
        """Of the verdict, the worst is 0."""
        return WORST_FIRST.index(self.verdict) if self.verdict in WORST_FIRST else 0

    @property
    def mark(self) -> str:
        """A sign for the verdict, beside its colour."""
        return VERDICTS[self.verdict][0] if self.verdict in VERDICTS else "✗"


def write_cohort(rows: Sequence[Row], folder: Path, title: str, section: Markup = NOTHING) -> Path:
    """Write ``index.html`` into the folder of a cohort.

    Args:
        rows: in any order.
        folder: there already; links lead from it.
        title: of the page.
        section: what follows the list.

    Raises:
        PatchMorphError: a file that cannot be written.
    """
    path = folder / INDEX
    with whole_file(path) as temporary:
        temporary.write_text(render_cohort(rows, folder, title, section), encoding="utf-8")
    return path


def render_cohort(rows: Sequence[Row], folder: Path, title: str, section: Markup = NOTHING) -> str:
    """The page of a cohort."""
    style, script = asset("templates/style.css"), asset("viewer/sort.js")
    counts = Counter(row.verdict for row in rows)
    known = [name for row in rows for name, value in row.numbers.items() if not math.isnan(value)]
    columns = [name for name in dict.fromkeys(name for row in rows for name in row.numbers) if name in known]

    def badness(row: Row) -> tuple[int, float, str]:
        first = row.numbers.get(columns[0], math.nan) if columns else math.nan
        return row.rank, -math.inf if math.isnan(first) else first, row.name

    return (
        environment()
        .get_template("cohort.html.j2")
        .render(
            csp=policy([hash_of(style)], [hash_of(script)]),
            style=Markup(style),
            script=Markup(script),
            title=title,
            section=section,
            counts=", ".join(f"{counts[verdict]} {verdict}" for verdict in (*LEVELS, FAILED)),
            columns=columns,
            rows=[(row, thumbnail(row.page), _link(row.page, folder)) for row in sorted(rows, key=badness)],
        )
    )


def thumbnail(page: Path | None) -> Markup | None:
    """The picture that a pair's page has as its icon."""
    if page is None or not page.is_file():
        return None
    with page.open(encoding="utf-8", errors="replace") as file:
        found = ICON.search(file.read(HEAD))
    return Markup(found[1]) if found else None


def _link(page: Path | None, folder: Path) -> str | None:
    return page.relative_to(folder).as_posix() if page is not None and page.is_file() else None
