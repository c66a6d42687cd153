"""PatchMorph: patchwise learned registration of 3D brain images.

The public names are listed in ``__init__.pyi`` and loaded when they are first used: ``import patchmorph``
loads no torch.
"""

import os

import lazy_loader

from patchmorph.version import VERSION

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
"""Threads that wait give their core away. OpenMP reads this once, when torch is loaded: spinning threads take
up to ten times as long where other processes use the same cores."""

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = VERSION
