"""Optional libraries for some file formats, installed by ``pip install 'patchmorph[formats]'``."""

import importlib
from typing import Any

from patchmorph.errors import PatchMorphError


def extra(module: str) -> Any:
    """Import a module of an optional library.

    Raises:
        PatchMorphError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PatchMorphError(
            f"{module.partition('.')[0]} must be installed (pip install 'patchmorph[formats]'), got {error}"
        ) from None
