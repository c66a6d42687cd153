"""Tables of text with a header: rows of text, numbers, and rows of file paths.

Cells are separated by commas, semicolons or tabs, whichever gives the head most columns.
"""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from patchmorph.errors import PatchMorphError
from patchmorph.io.formats.registry import is_image

SEPARATORS = ",;\t"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Row:
    """Cells by the name of their column, and their place in the file for messages."""

    where: str
    cells: dict[str, str]

    def number(self, name: str) -> float:
        """The number in a cell.

        Raises:
            PatchMorphError: it is not finite, or none.
        """
        value = as_number(self.cells[name])
        if not math.isfinite(value):
            raise PatchMorphError(f"{name} must be a number, got {self.cells[name]!r} in {self.where}")
        return value


@dataclass(frozen=True)
class Table:
    """A table as text, with what is needed to write another one in its form.

    Attributes:
        names: of the columns.
        rows: lines that are not blank; cells are stripped.
        separator: of cells.
        newline: end of a line.
        mark: text before the first name: ``"# "`` in tables of ``numpy.savetxt``.
    """

    names: list[str]
    rows: list[Row]
    separator: str
    newline: str
    mark: str

    def save(self, path: Path, names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Write a table in the form of this one."""
        with path.open("w", newline="", encoding="utf-8") as file:
            file.write(self.mark)
            writer = csv.writer(file, delimiter=self.separator, lineterminator=self.newline)
            writer.writerow(names)
            writer.writerows(rows)


def as_number(text: str) -> float:
    """The number that ``text`` states; NaN if it is none (``float`` would also read ``1_000``)."""
    try:
        return math.nan if "_" in text else float(text)
    except ValueError:
        return math.nan


def read_text(path: Path, what: str) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark; ``what`` names it in messages.

    Raises:
        PatchMorphError: no such file, or no text.
    """
    if not path.is_file():
        raise PatchMorphError(f"{what} must be an existing file, got {path}")
    try:
        raw = path.read_bytes()
        return raw.decode("utf-16" if raw.startswith(UTF16_MARKS) else "utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise PatchMorphError(f"{what} must be text in UTF-8, got {path}: {error}") from None


def newline_of(text: str) -> str:
    """How the lines of ``text`` end."""
    return "\r\n" if "\r\n" in text else "\n"


def read_table(path: Path, what: str) -> Table:
    """Read a table with a header.

    Raises:
        PatchMorphError: as for `read_text`, quotes that do not end, two columns of one name, or a row of
            another length than the head.
    """
    text = read_text(path, what)
    try:
        separator = _separator(text)
        lines = _lines(text, separator)
    except csv.Error as error:
        raise PatchMorphError(f"{what} must be CSV, got {path}: {error}") from None
    head = lines[0][1] if lines else [""]
    first = head[0].lstrip("# ")
    names = [first, *head[1:]]
    if len(set(names)) < len(names):
        raise PatchMorphError(f"columns must have different names, got {','.join(names)} in {path}")
    rows = [_row(names, cells, f"line {number} of {path}") for number, cells in lines[1:]]
    return Table(names, rows, separator, newline_of(text), head[0].removesuffix(first))


def _separator(text: str) -> str:
    head = text.lstrip().partition("\n")[0]
    return max(SEPARATORS, key=lambda separator: len(next(csv.reader([head], delimiter=separator), [])))


def _lines(text: str, separator: str) -> list[tuple[int, list[str]]]:
    """Stripped cells of every line that is not blank, with its number."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    return [(number, cells) for number, cells in lines if cells not in ([], [""])]


def _row(names: list[str], cells: list[str], where: str) -> Row:
    if len(cells) != len(names):
        difference = "more" if len(cells) > len(names) else "fewer"
        raise PatchMorphError(f"rows must be as long as the head, got {difference} in {where}")
    return Row(where, dict(zip(names, cells, strict=True)))


def read_rows(
    path: Path,
    what: str,
    required: Sequence[str],
    optional: Sequence[str] | None = None,
    may_be_empty: bool = False,
) -> list[Row]:
    """The rows of a table with certain columns.

    Args:
        path: see `read_table`.
        what: the table's name in messages.
        required: columns that must be present.
        optional: further columns that are allowed; ``None``: any.
        may_be_empty: whether a head without rows is a table.

    Raises:
        PatchMorphError: as for `read_table`, no rows, or a missing or unknown column.
    """
    table = read_table(path, what)
    unknown = set() if optional is None else set(table.names) - {*required, *optional}
    if unknown or not set(required) <= set(table.names):
        wanted = ",".join(required) + ("[," + ",".join(optional) + "]" if optional else "")
        raise PatchMorphError(f"columns must be {wanted}, got {','.join(table.names)} in {path}")
    if not table.rows and not may_be_empty:
        raise PatchMorphError(f"{what} must have rows, got none in {path}")
    return table.rows


def read_files(
    path: Path, what: str, required: Sequence[str], optional: Sequence[str]
) -> list[dict[str, Path]]:
    """The rows of a table of images; paths are relative to its folder, and empty cells are omitted.

    Raises:
        PatchMorphError: as for `read_rows`, an empty required cell, or a file that does not exist.
    """
    rows = read_rows(path, what, required, optional)
    return [files_of(row, required, path.parent) for row in rows]


def files_of(row: Row, required: Sequence[str], folder: Path) -> dict[str, Path]:
    """The files that a row names, relative to ``folder``, without empty cells.

    Raises:
        PatchMorphError: an empty required cell, or a file that does not exist.
    """
    files = {column: folder / value for column, value in row.cells.items() if value}
    for column, file in files.items():
        if not is_image(file):
            raise PatchMorphError(
                f"{column} must be an existing file, got {row.cells[column]} in {row.where}"
            )
    for column in required:
        if column not in files:
            raise PatchMorphError(f"{column} must be given, got nothing in {row.where}")
    return files
