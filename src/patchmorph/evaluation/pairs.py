"""A table of pairs to evaluate: ``fixed,moving[,fixed_labels,moving_labels]``."""

from dataclasses import dataclass
from pathlib import Path

from patchmorph.errors import PatchMorphError
from patchmorph.io.tables import read_files

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
    """Read a CSV table of pairs; its paths are relative to its folder.

    Raises:
        PatchMorphError: no such file, missing or unknown columns, no rows, a listed file that does not exist,
            or labels for one image only.
    """
    path = Path(path)
    rows = read_files(path, "table of pairs", REQUIRED, OPTIONAL)
    for line, files in enumerate(rows, start=2):
        if len(files) == 3:
            raise PatchMorphError(
                f"labels must be given for both images or none, got one in line {line} of {path}"
            )
    return [PairPaths(**files) for files in rows]
