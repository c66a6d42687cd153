"""ITK's transforms as text (``.tfm``, ``.txt``): lines of a tag, a colon and a value; # begins a comment."""

from pathlib import Path

import numpy as np

from patchmorph.errors import PatchMorphError, one_line
from patchmorph.io.transforms.itk_records import Record, is_composite

HEADER = "#Insight Transform File V1.0"
KIND, PARAMETERS, FIXED = "Transform", "Parameters", "FixedParameters"


def write_text(record: Record, path: Path) -> None:
    """Write one transform."""
    lines = [HEADER, "#Transform 0", f"{KIND}: {record.kind}"]
    for tag, numbers in ((PARAMETERS, record.parameters), (FIXED, record.fixed)):
        lines.append(f"{tag}: {' '.join(f'{number:.17g}' for number in numbers)}")
    path.write_text("\n".join([*lines, ""]), encoding="ascii")


def read_text(path: Path) -> list[Record]:
    """Read all transforms of a file.

    Raises:
        PatchMorphError: other text, or a transform without its numbers.
    """
    sets: list[dict[str, str]] = []
    for line in path.read_text(encoding="latin-1").splitlines():
        tag, colon, value = (part.strip() for part in line.partition(":"))
        if not tag or tag.startswith("#"):
            continue
        if tag == KIND:
            sets.append({})
        if not colon or not sets:
            raise PatchMorphError(f"ITK transform must be lines of tags, got {one_line(line)!r} in {path}")
        sets[-1][tag] = value
    return [_record(tags, path) for tags in sets]


def _record(tags: dict[str, str], path: Path) -> Record:
    for tag in (PARAMETERS, FIXED):
        if tag not in tags and not is_composite(tags[KIND]):
            raise PatchMorphError(f"ITK transform must have a line of {tag}, got none in {path}")
    return Record(tags[KIND], *(_numbers(tags.get(tag, ""), path) for tag in (PARAMETERS, FIXED)))


def _numbers(value: str, path: Path) -> np.ndarray:
    try:
        return np.array([float(word) for word in value.split()])
    except ValueError as error:
        raise PatchMorphError(f"ITK transform must hold numbers, got {one_line(error)} in {path}") from None
