"""What the commands share, and how the process ends."""

import signal
import sys

import torch
import typer
from rich.console import Console
from rich.table import Table

from patchmorph.errors import PatchMorphError

app = typer.Typer(
    help="Patchwise learned registration of 3D brain images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(highlight=False, markup=False, soft_wrap=True)


def print_table(title: str, values: dict[str, float]) -> None:
    """Names and numbers in two columns."""
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in values.items():
        table.add_row(name.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else str(value))
    console.print(table)


def main() -> None:
    """Run the command line, which ends the process; what a user got wrong is one line and status 2."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that unfinished outputs are removed
    try:
        app()
    except PatchMorphError as error:
        print(f"patchmorph: {error}", file=sys.stderr)
        sys.exit(2)
    except torch.OutOfMemoryError as error:
        summary = str(error).splitlines()[0]
        print(f"patchmorph: GPU memory must hold networks and patches, got: {summary}", file=sys.stderr)
        sys.exit(2)
