"""Libraries that only some files need: they come with ``pip install 'patchmorph[formats]'``."""

import importlib
from typing import Any

from patchmorph.errors import PatchMorphError


def extra(module: str) -> Any:
    """An optional library's module.

    Raises:
        PatchMorphError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PatchMorphError(
            f"{module.partition('.')[0]} must be installed (pip install 'patchmorph[formats]'), got {error}"
        ) from None
