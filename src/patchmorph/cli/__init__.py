"""The command line: parse, call, save, explain errors; no mathematics."""

from patchmorph.cli import registration, transforms  # noqa: F401  (each adds its commands)
from patchmorph.cli.app import app, main

__all__ = ["app", "main"]
