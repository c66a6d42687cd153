"""Optional libraries, which the extras of the package install: ``pip install 'patchmorph[formats]'``."""

import importlib
from typing import Any

from patchmorph.errors import PatchMorphError


def extra(module: str, group: str = "formats") -> Any:
    """Import a module of an optional library; ``group`` is the extra that installs it.

    Raises:
        PatchMorphError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PatchMorphError(
            f"{module.partition('.')[0]} must be installed (pip install 'patchmorph[{group}]'), got {error}"
        ) from None
