"""Names of the regions of a label map, from the tables that atlases come with.

Read are BrainGlobe's ``structures.csv``, ``structures.json`` and ``terminology.csv``, tables of BIDS
(``index``, ``name``, ``abbreviation``), FreeSurfer's colour tables (``id name r g b a``) and label
descriptions of ITK-SNAP (``id r g b a visible mesh "name"``).
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.io.tables import read_rows, read_text

IDS, ACRONYMS = ("id", "index", "identifier"), ("acronym", "abbreviation")
MAX_DIGITS = 19
"""Of an id, which a label map holds as an integer of 64 bits."""
FREESURFER = re.compile(r"\s*(\d+)\s+(\S+)(?:\s+\d+){3,4}\s*")
ITK_SNAP = re.compile(r'\s*(\d+)(?:\s+[\d.]+){6}\s+"(.*)"\s*')


class RegionName(NamedTuple):
    """How a region is called; an acronym that the table lacks is empty."""

    name: str
    acronym: str = ""


def read_region_names(path: Path) -> dict[int, RegionName]:
    """The names in a table, by the ids of the regions.

    Raises:
        PatchMorphError: no such file, another kind of table, no names, or an id that is no whole number or
            has two names.
    """
    if path.suffix.lower() == ".json":
        found = _of_json(path)
    elif path.suffix.lower() in (".csv", ".tsv"):
        rows = read_rows(path, "names of regions", ["name"])
        found = [_of_cells(row.cells, row.where) for row in rows]
    else:
        found = _of_lines(path)
    names: dict[int, RegionName] = {}
    for label, name in found:
        if names.setdefault(label, name) != name:
            raise PatchMorphError(f"names of regions must be one for each id, got two for {label} in {path}")
    if not names:
        raise PatchMorphError(
            f"names of regions must be a table with columns id and name, structures.json, or a table of "
            f"FreeSurfer or ITK-SNAP, got {path}"
        )
    return names


def _of_json(path: Path) -> Iterable[tuple[int, RegionName]]:
    try:
        content = json.loads(read_text(path, "names of regions"))
    except PatchMorphError:
        raise
    except (ValueError, RecursionError) as error:
        raise PatchMorphError(f"names of regions must be JSON, got {path}: {one_line(error)}") from None
    if not isinstance(content, list) or not all(isinstance(one, dict) and "name" in one for one in content):
        raise PatchMorphError(f"names of regions must be a list of objects with a name, got {path}")
    return [_of_cells({key: str(one[key]) for key in one}, str(path)) for one in content]


def _of_cells(cells: dict[str, str], where: str) -> tuple[int, RegionName]:
    label = next((cells[key] for key in IDS if key in cells), "")
    acronym = next((cells[key] for key in ACRONYMS if key in cells), "")
    return _id(label, where), RegionName(cells["name"], acronym)


def _id(text: str, where: str) -> int:
    if not text.isdecimal() or len(text) > MAX_DIGITS:
        raise PatchMorphError(f"id of a region must be a whole number, got {one_line(text)!r} in {where}")
    return int(text)


def _of_lines(path: Path) -> Iterable[tuple[int, RegionName]]:
    for line in read_text(path, "names of regions").splitlines():
        if found := FREESURFER.fullmatch(line) or ITK_SNAP.fullmatch(line):
            yield _id(found[1], str(path)), RegionName(found[2])
