"""The command line: argument parsing, calls, output and error messages; no mathematics."""

from patchmorph.cli.app import app, main

__all__ = ["app", "main"]
