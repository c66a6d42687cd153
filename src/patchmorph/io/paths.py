"""Paths as users give them."""

import os
from pathlib import Path
from typing import Any

from patchmorph.errors import PatchMorphError

AnyPath = Any
"""What `as_path` takes: text or a path; checked there, so that a wrong type is an error for a user."""


def as_path(given: AnyPath, name: str = "path") -> Path:
    """The path that a user gave.

    Raises:
        PatchMorphError: neither text nor a path.
    """
    if not isinstance(given, str | os.PathLike):
        raise PatchMorphError(f"{name} must be text or a path, got {type(given).__name__}")
    return Path(os.fsdecode(given))
