"""Options and output shared by the commands, and the entry point."""

import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.table import Table

from patchmorph.cli.commands import DeferredGroup
from patchmorph.cli.display import console, display
from patchmorph.errors import PatchMorphError, printable
from patchmorph.version import VERSION

COMPLETION = "_PATCHMORPH_COMPLETE"
"""Variable that is set where a shell asks for the words that may follow."""

UsageError: Any = typer.BadParameter.__mro__[1]
"""What typer raises for arguments that it cannot parse; it exports the class for single values alone."""
NO_ARGUMENTS = "NoArgsIsHelpError"

EXIT_CODES = """Exit codes: 0 done; 1 some rows of a table failed, or doctor found something broken;
2 bad input, in one line on standard error; 3 the verdict is fail (--strict); 130, 143 interrupted:
nothing half-written is left."""

app = typer.Typer(
    cls=DeferredGroup,
    help="Patchwise learned registration of 3D brain images.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
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


def _show_version(chosen: bool) -> bool:
    if chosen:
        console.print(f"patchmorph {VERSION}")
        raise typer.Exit
    return chosen


@app.callback()
def _global_options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


def print_table(title: str, values: Mapping[str, int | float]) -> None:
    """Print names and numbers in two columns."""
    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in values.items():
        table.add_row(name.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else str(value))
    console.print(table)


def main() -> None:
    """Run the command line and exit; a user error prints one line and exits with status 2."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, so that unfinished outputs are removed
    try:
        with contextlib.nullcontext() if COMPLETION in os.environ else display():
            status = app(standalone_mode=False)
    except PatchMorphError as error:
        _fail(str(error))
    except UsageError as error:
        if type(error).__name__ == NO_ARGUMENTS:  # the help was printed
            sys.exit(2)
        _fail(_usage(error))
    except OSError as error:  # of a file system: a name that is too long, a device that is gone
        _fail(f"files must be in reach, got {error}")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; most errors come before torch is loaded
            raise
        _fail(f"GPU memory must hold networks and patches, got: {str(error).splitlines()[0]}")
    sys.exit(status if isinstance(status, int) else 0)


def _usage(error: Any) -> str:
    """What is wrong with the arguments, and where they are explained."""
    message = error.format_message().rstrip(".")
    return f"arguments must be those of the command, got: {message}" + (
        f" (see {error.ctx.command_path} --help)" if error.ctx else ""
    )


def _fail(message: str) -> NoReturn:
    """Print a message on one line: names of files may have line ends and codes that terminals obey."""
    print(f"patchmorph: {printable(message)}", file=sys.stderr)
    sys.exit(2)
