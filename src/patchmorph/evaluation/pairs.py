"""A table of pairs to evaluate: ``fixed,moving[,fixed_labels,moving_labels]``."""

import csv
from dataclasses import dataclass
from pathlib import Path

from patchmorph.errors import PatchMorphError

REQUIRED = ("fixed", "moving")
OPTIONAL = ("fixed_labels", "moving_labels")


@dataclass(frozen=True)
class PairPaths:
    """The files of one pair."""

    fixed: Path
    moving: Path
    fixed_labels: Path | None = None
    moving_labels: Path | None = None


def load_pairs(path: str | Path) -> list[PairPaths]:
    """Read a CSV; paths in it are relative to its folder, and all must exist.

    Raises:
        PatchMorphError: no such file, missing or unknown columns, no rows, a file that is not there, or
            labels for one image only.
    """
    path = Path(path)
    if not path.is_file():
        raise PatchMorphError(f"table of pairs must be an existing file, got {path}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = [column.strip() for column in reader.fieldnames or []]
            reader.fieldnames = columns
            rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise PatchMorphError(f"table of pairs must be CSV, got {path}: {error}") from None
    if not set(REQUIRED) <= set(columns) or not set(columns) <= set(REQUIRED + OPTIONAL):
        wanted = ",".join(REQUIRED) + "[," + ",".join(OPTIONAL) + "]"
        raise PatchMorphError(f"columns must be {wanted}, got {','.join(columns)} in {path}")
    if not rows:
        raise PatchMorphError(f"table of pairs must have rows, got none in {path}")
    return [_pair(row, number, path) for number, row in enumerate(rows, start=2)]


def _pair(row: dict[str, str | None], line: int, path: Path) -> PairPaths:
    files: dict[str, Path] = {}
    for column in REQUIRED + OPTIONAL:
        value = (row.get(column) or "").strip()
        if value:
            files[column] = path.parent / value
            if not files[column].is_file():
                raise PatchMorphError(
                    f"{column} must be an existing file, got {value} in line {line} of {path}"
                )
        elif column in REQUIRED:
            raise PatchMorphError(f"{column} must be given, got nothing in line {line} of {path}")
    if len(files) == 3:
        raise PatchMorphError(
            f"labels must be given for both images or none, got one in line {line} of {path}"
        )
    return PairPaths(**files)
