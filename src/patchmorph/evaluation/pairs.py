"""The files of a pair, and a table of pairs."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from patchmorph.errors import PatchMorphError
from patchmorph.io.bids import stem
from patchmorph.io.tables import Row, files_of, read_rows

REQUIRED = ("fixed", "moving")
FOLDER_NAME = re.compile(r"\w[\w.-]{,199}")
TRANSFORM, TOOL, SECONDS = "transform", "tool", "seconds"
"""Columns with maps made elsewhere, what made them and how long it took, in tables that are evaluated."""
OF_MAPS = (TRANSFORM, TOOL, SECONDS)
ELSEWHERE = "elsewhere"
"""Stands for the tool of a map where none is named."""
TOOL_NAME = re.compile(r"\w[\w. +-]{,79}")
CHANNELS = frozenset(("fixed_channel", "moving_channel"))


@dataclass(frozen=True)
class PairPaths:
    """The files of one pair; see `patchmorph.api.register` for masks and the initial transform.

    Attributes:
        fixed_channel: further channels of the fixed image.
        moving_channel: the same channels of the moving image, in the same order.
        transform: a map that another tool made, instead of a registration.
        tool: what makes or made the map, where several are compared.
        seconds: how long another tool took, if that is known.

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
    tool: str = ""
    seconds: float | None = None

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
        return replace(self, **files)


COLUMNS = tuple(field.name for field in fields(PairPaths) if field.name not in OF_MAPS)
"""Columns of a table of pairs that are registered, which has room for one further channel."""
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


def load_evaluated_pairs(path: str | Path) -> list[PairPaths]:
    """The same from a table that may have the columns `OF_MAPS`, too.

    Raises:
        PatchMorphError: as for `load_pairs`, a tool or seconds without a map, or two maps of one tool for a
            pair.
    """
    pairs, known = [], set()
    for row, pair in _rows(Path(path), OF_MAPS):
        if pair.transform is None and (pair.tool or pair.seconds is not None):
            raise PatchMorphError(f"{TOOL} and {SECONDS} must come with {TRANSFORM}, got none in {row.where}")
        if pair.transform is not None:
            pair = replace(pair, tool=pair.tool or ELSEWHERE)
            key = (pair.fixed, pair.moving, pair.tool)
            if key in known:
                raise PatchMorphError(
                    f"maps of one pair must be of different tools (column {TOOL}), got {pair.tool} twice, "
                    f"again in {row.where}"
                )
            known.add(key)
        pairs.append(pair)
    return pairs


def by_each_tool(pairs: list[PairPaths], models: list[str]) -> list[PairPaths]:
    """The pairs, those without a map once for each model, which is their tool.

    Raises:
        PatchMorphError: a map by a tool that is named as a model.
    """
    both = {pair.tool for pair in pairs if pair.transform is not None} & set(models)
    if both and any(pair.transform is None for pair in pairs):
        raise PatchMorphError(f"{TOOL} must have another name than the models, got {sorted(both)[0]}")
    return [
        replace(pair, tool=tool)
        for pair in pairs
        for tool in ([pair.tool] if pair.transform is not None else models)
    ]


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
        files = {name: cell for name, cell in row.cells.items() if name not in (NAME, TOOL, SECONDS)}
        pair = replace(_pair(Row(row.where, files), path.parent), tool=_tool(row))
        yield row, replace(pair, seconds=row.number(SECONDS)) if row.cells.get(SECONDS) else pair


def _tool(row: Row) -> str:
    tool = row.cells.get(TOOL, "")
    if tool and not TOOL_NAME.fullmatch(tool):
        raise PatchMorphError(
            f"{TOOL} must be letters, digits, spaces, dots, plus signs, dashes and underscores, at most 80, "
            f"got {tool!r} in {row.where}"
        )
    return tool


def _pair(row: Row, folder: Path) -> PairPaths:
    files: dict[str, Any] = {**files_of(row, REQUIRED, folder)}
    for what in ("labels", "channel"):
        if (f"fixed_{what}" in files) != (f"moving_{what}" in files):
            raise PatchMorphError(f"{what} must be given for both images or none, got one in {row.where}")
    for name in CHANNELS & files.keys():
        files[name] = (files[name],)
    return PairPaths(**files)
