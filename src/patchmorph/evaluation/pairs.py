"""The files of a pair, and a table of pairs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from patchmorph.errors import PatchMorphError
from patchmorph.io.bids import stem
from patchmorph.io.tables import Row, files_of, read_rows

REQUIRED = ("fixed", "moving")
FOLDER_NAME = re.compile(r"\w[\w.-]*")


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


NAME = "name"
"""Column with the names of pairs."""


def load_pairs(path: str | Path) -> list[PairPaths]:
    """Read a CSV table of pairs with some of `COLUMNS`; its paths are relative to its folder.

    Raises:
        PatchMorphError: no such file, missing or unknown columns, no rows, a listed file that does not exist,
            or labels for one image only.
    """
    return [pair for _, pair in _rows(Path(path))]


def load_named_pairs(path: str | Path) -> dict[str, PairPaths]:
    """The same by name: that in the column ``name``, else ``MOVING_to_FIXED`` by the names of the files.

    Raises:
        PatchMorphError: as for `load_pairs`, two pairs of one name, or a name that is none of a folder.
    """
    pairs: dict[str, PairPaths] = {}
    for row, pair in _rows(Path(path)):
        name = row.cells.get(NAME) or f"{stem(pair.moving)}_to_{stem(pair.fixed)}"
        if not FOLDER_NAME.fullmatch(name):
            raise PatchMorphError(
                f"{NAME} must be letters, digits, dots, dashes and underscores, got {name!r} in {row.where}"
            )
        if name in pairs:
            raise PatchMorphError(
                f"pairs must have different names (column {NAME}), got {name} twice, again in {row.where}"
            )
        pairs[name] = pair
    return pairs


def _rows(path: Path) -> Iterator[tuple[Row, PairPaths]]:
    for row in read_rows(path, "table of pairs", REQUIRED, (*OPTIONAL, NAME)):
        files = Row(row.where, {column: cell for column, cell in row.cells.items() if column != NAME})
        yield row, _pair(files, path.parent)


def _pair(row: Row, folder: Path) -> PairPaths:
    pair = PairPaths(**files_of(row, REQUIRED, folder))
    if (pair.fixed_labels is None) != (pair.moving_labels is None):
        raise PatchMorphError(f"labels must be given for both images or none, got one in {row.where}")
    return pair
