"""The command line: argument parsing, calls, output and error messages; no mathematics."""

from patchmorph.cli import registration, training, transforms  # noqa: F401  (each registers its commands)
from patchmorph.cli.app import app, main

__all__ = ["app", "main"]
