"""Optional libraries, which the extras of the package install: ``pip install 'patchmorph[formats]'``."""

import importlib
from typing import Any

from patchmorph.errors import PatchMorphError


def extra(module: str, group: str = "formats", use: str = "") -> Any:
    """Import a module of an optional library.

    Args:
        module: its name.
        group: the extra that installs it.
        use: what it is needed for, for the message.

    Raises:
        PatchMorphError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        why = f" to {use}" if use else ""
        raise PatchMorphError(
            f"{name} must be installed{why} (pip install 'patchmorph[{group}]'), got {error}"
        ) from None


def simpleitk(use: str = "") -> Any:
    """SimpleITK, which is loaded when it is first used; ``use``: what it is needed for.

    Raises:
        PatchMorphError: it is not installed.
    """
    return extra("SimpleITK", "itk", use)
