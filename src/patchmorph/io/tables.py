"""CSV tables with a header: rows of text, and rows of file paths."""

import csv
from collections.abc import Sequence
from pathlib import Path

from patchmorph.errors import PatchMorphError


def read_rows(
    path: Path, what: str, required: Sequence[str], optional: Sequence[str] | None = None
) -> list[dict[str, str]]:
    """The rows of a CSV file with a header; names and cells are stripped of blanks.

    Args:
        path: CSV file, UTF-8.
        what: the table's name in messages.
        required: columns that must be present.
        optional: further columns that are allowed; ``None``: any.

    Raises:
        PatchMorphError: no such file, not CSV, no rows, a missing or unknown column, or a row too long.
    """
    if not path.is_file():
        raise PatchMorphError(f"{what} must be an existing file, got {path}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = names
            if len(set(names)) < len(names):
                raise PatchMorphError(f"columns must have different names, got {','.join(names)} in {path}")
            rows = []
            for line, row in enumerate(reader, start=2):
                if None in row:
                    raise PatchMorphError(
                        f"rows must be as long as the head, got more in line {line} of {path}"
                    )
                rows.append({name: (row.get(name) or "").strip() for name in names})
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PatchMorphError(f"{what} must be CSV, got {path}: {error}") from None
    unknown = set() if optional is None else set(names) - {*required, *optional}
    if unknown or not set(required) <= set(names):
        wanted = ",".join(required) + ("[," + ",".join(optional) + "]" if optional else "")
        raise PatchMorphError(f"columns must be {wanted}, got {','.join(names)} in {path}")
    if not rows:
        raise PatchMorphError(f"{what} must have rows, got none in {path}")
    return rows


def read_files(
    path: Path, what: str, required: Sequence[str], optional: Sequence[str]
) -> list[dict[str, Path]]:
    """The rows of a table of files; paths are relative to its folder, and empty cells are omitted.

    Raises:
        PatchMorphError: as for `read_rows`, an empty required cell, or a file that does not exist.
    """
    return [
        _files(row, required, f"line {line} of {path}", path.parent)
        for line, row in enumerate(read_rows(path, what, required, optional), start=2)
    ]


def _files(row: dict[str, str], required: Sequence[str], where: str, folder: Path) -> dict[str, Path]:
    files = {column: folder / value for column, value in row.items() if value}
    for column, file in files.items():
        if not file.is_file():
            raise PatchMorphError(f"{column} must be an existing file, got {row[column]} in {where}")
    for column in required:
        if column not in files:
            raise PatchMorphError(f"{column} must be given, got nothing in {where}")
    return files
