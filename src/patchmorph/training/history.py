"""What a training has written of its progress, read back."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from patchmorph.errors import PatchMorphError, one_line, problems
from patchmorph.training.config import TrainingConfig
from patchmorph.training.record import LOG

CONFIG = "config.json"
STEP = "step"
MOST_STEPS = 2**53
"""Of which a float knows each."""


@dataclass(frozen=True)
class Series:
    """A figure over the steps.

    Attributes:
        steps: after which it was written.
        values: finite.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class History:
    """A training as its folder tells it.

    Attributes:
        config: its configuration, with the folder to which paths are relative.
        series: figures by name, in the order in which they appear in the log.
    """

    config: TrainingConfig
    series: dict[str, Series]

    @property
    def step(self) -> int:
        """The last step of the log."""
        return max((series.steps[-1] for series in self.series.values()), default=0)


def read_history(folder: Path) -> History:
    """Read the log and the configuration of a training, which may still run.

    Raises:
        PatchMorphError: one of them is missing, or is something else.
    """
    points: dict[str, list[tuple[int, float]]] = {}
    for line in _lines(folder / LOG):
        for name, value in line.items():
            if name != STEP and isinstance(value, int | float) and abs(value) <= sys.float_info.max:
                points.setdefault(name, []).append((line[STEP], float(value)))
    series = {name: Series(*zip(*found, strict=True)) for name, found in points.items()}
    return History(_config(folder), series)


def _lines(path: Path) -> list[dict[str, Any]]:
    """The entries of a log; a last line that is not whole belongs to a training that runs or was killed."""
    try:
        text = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise PatchMorphError(f"log must be text, got {path}: {one_line(error)}") from None
    entries = []
    for number, line in enumerate(text, 1):
        try:
            entry = json.loads(line)
            if not isinstance(entry[STEP], int) or not 0 <= entry[STEP] < MOST_STEPS:
                raise TypeError
        except (ValueError, TypeError, KeyError, IndexError, RecursionError):
            if number == len(text) and number > 1:
                break
            raise PatchMorphError(
                f"log must be that of a training, got another line {number} in {path}"
            ) from None
        entries.append(entry)
    return entries


def _config(folder: Path) -> TrainingConfig:
    path = folder / CONFIG
    if not path.is_file():
        raise PatchMorphError(f"folder of a training must hold {CONFIG}, got none in {folder}")
    try:
        config = TrainingConfig.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise PatchMorphError(f"{CONFIG} must be that of a training, got {path}: {problems(error)}") from None
    return config.model_copy(update={"folder": _folder_of_paths(config, folder)})


def _folder_of_paths(config: TrainingConfig, folder: Path) -> Path:
    """The folder of the configuration file: that around the run, which may have been moved as a whole."""
    output = Path(config.run.output)
    depth, place = len(output.parts), folder.absolute()
    if not output.is_absolute() and ".." not in output.parts and place.parts[-depth:] == output.parts:
        return Path(*place.parts[: len(place.parts) - depth])
    return config.folder
