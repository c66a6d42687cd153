"""The files of a pair, and a table of pairs."""

from dataclasses import dataclass, fields
from pathlib import Path

from patchmorph.errors import PatchMorphError
from patchmorph.io.tables import Row, files_of, read_rows

REQUIRED = ("fixed", "moving")


@dataclass(frozen=True)
class PairPaths:
    """The files of one pair; see `patchmorph.api.register` for masks and the initial transform."""

    fixed: Path
    moving: Path
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    fixed_ignore: Path | None = None
    moving_ignore: Path | None = None
    initial_transform: Path | None = None

    def given(self) -> dict[str, Path]:
        """The files that there are, by name."""
        return {name: path for name, path in vars(self).items() if path is not None}


COLUMNS = tuple(field.name for field in fields(PairPaths))
"""Columns of a table of pairs."""
OPTIONAL = COLUMNS[len(REQUIRED) :]


def load_pairs(path: str | Path) -> list[PairPaths]:
    """Read a CSV table of pairs with some of `COLUMNS`; its paths are relative to its folder.

    Raises:
        PatchMorphError: no such file, missing or unknown columns, no rows, a listed file that does not exist,
            or labels for one image only.
    """
    path = Path(path)
    return [_pair(row, path.parent) for row in read_rows(path, "table of pairs", REQUIRED, OPTIONAL)]


def _pair(row: Row, folder: Path) -> PairPaths:
    pair = PairPaths(**files_of(row, REQUIRED, folder))
    if (pair.fixed_labels is None) != (pair.moving_labels is None):
        raise PatchMorphError(f"labels must be given for both images or none, got one in {row.where}")
    return pair
