"""Options and output shared by the commands, and the entry point."""

import signal
import sys
from pathlib import Path
from typing import Annotated

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
ModelOption = Annotated[
    str, typer.Option("--model", help="Name of a packaged model (see `patchmorph models`), or a model file.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
TrustOption = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        help="Class that a model file may name, as MODULE:CLASS; its code is run. Repeatable.",
    ),
]
FolderOption = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for the results; created if missing.")
]
AssumeOption = Annotated[
    str | None,
    typer.Option(
        help="Directions in which the axes of an image without an orientation in its header run, such as RAS."
    ),
]
console = Console(highlight=False, markup=False, soft_wrap=True)


def print_table(title: str, values: dict[str, float]) -> None:
    """Print names and numbers in two columns."""
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in values.items():
        table.add_row(name.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else str(value))
    console.print(table)


def main() -> None:
    """Run the command line and exit; a user error prints one line and exits with status 2."""
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
