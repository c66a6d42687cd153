"""The files of a pair, and a table of pairs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from patchmorph.errors import PatchMorphError
from patchmorph.io.bids import stem
from patchmorph.io.tables import Row, files_of, read_rows

REQUIRED = ("fixed", "moving")
FOLDER_NAME = re.compile(r"\w[\w.-]{,199}")
TRANSFORM = "transform"
"""Column with maps that other tools made, in tables that are evaluated."""
CHANNELS = frozenset(("fixed_channel", "moving_channel"))


@dataclass(frozen=True)
class PairPaths:
    """The files of one pair; see `patchmorph.api.register` for masks and the initial transform.

    Attributes:
        fixed_channel: further channels of the fixed image.
        moving_channel: the same channels of the moving image, in the same order.
        transform: a map that another tool made, instead of a registration.

    Raises:
        PatchMorphError: more channels of one image than of the other, or what only a registration uses with
            a transform.
    """

    fixed: Path
    moving: Path
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    fixed_mask: Path | None = None
    moving_mask: Path | None = None
    fixed_ignore: Path | None = None
    moving_ignore: Path | None = None
    initial_transform: Path | None = None
    fixed_channel: tuple[Path, ...] = ()
    moving_channel: tuple[Path, ...] = ()
    transform: Path | None = None

    def __post_init__(self) -> None:
        fixed, moving = len(self.fixed_channel), len(self.moving_channel)
        if fixed != moving:
            raise PatchMorphError(
                f"channels must be as many of the fixed as of the moving image, got {fixed} and {moving}"
            )
        if self.transform is not None and (self.initial_transform is not None or fixed):
            raise PatchMorphError(
                "transform must come without initial transform and channels, which only a registration uses, "
                f"got both for {self.transform}"
            )

    def given(self) -> dict[str, Path]:
        """The files of which there may be one, by name."""
        return {name: path for name, path in vars(self).items() if isinstance(path, Path)}

    def inputs(self) -> tuple[Path, ...]:
        """All files that there are."""
        return (*self.given().values(), *self.fixed_channel, *self.moving_channel)

    def absolute(self) -> "PairPaths":
        """The same files, wherever the working directory is."""
        files: dict[str, Any] = {name: path.absolute() for name, path in self.given().items()}
        for name in CHANNELS:
            files[name] = tuple(path.absolute() for path in getattr(self, name))
        return PairPaths(**files)


COLUMNS = tuple(field.name for field in fields(PairPaths) if field.name != TRANSFORM)
"""Columns of a table of pairs that are registered, which has room for one further channel."""
OPTIONAL = COLUMNS[len(REQUIRED) :]
NAME = "name"
"""Column with the names of pairs."""


def load_pairs(path: str | Path, further: tuple[str, ...] = ()) -> list[PairPaths]:
    """Read a CSV table of pairs with some of `COLUMNS`; its paths are relative to its folder.

    Args:
        path: of the table.
        further: columns that it may have, too, such as `TRANSFORM`.

    Raises:
        PatchMorphError: no such file, missing or unknown columns, no rows, a listed file that does not exist,
            or labels for one image only.
    """
    return [pair for _, pair in _rows(Path(path), further)]


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
                f"{NAME} must be letters, digits, dots, dashes and underscores, at most 200, got {name!r} in "
                f"{row.where}"
            )
        if name in pairs:
            raise PatchMorphError(
                f"pairs must have different names (column {NAME}), got {name} twice, again in {row.where}"
            )
        pairs[name] = pair
    return pairs


def _rows(path: Path, further: tuple[str, ...] = ()) -> Iterator[tuple[Row, PairPaths]]:
    for row in read_rows(path, "table of pairs", REQUIRED, (*OPTIONAL, *further, NAME)):
        files = Row(row.where, {column: cell for column, cell in row.cells.items() if column != NAME})
        yield row, _pair(files, path.parent)


def _pair(row: Row, folder: Path) -> PairPaths:
    files: dict[str, Any] = {**files_of(row, REQUIRED, folder)}
    for what in ("labels", "channel"):
        if (f"fixed_{what}" in files) != (f"moving_{what}" in files):
            raise PatchMorphError(f"{what} must be given for both images or none, got one in {row.where}")
    for name in CHANNELS & files.keys():
        files[name] = (files[name],)
    return PairPaths(**files)
