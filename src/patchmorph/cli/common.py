"""Options that all commands have: threads, and how much is shown."""

from typing import Annotated, Any

import typer

from patchmorph.cli.display import set_verbosity

_options = typer.Typer(add_completion=False)


def _set_threads(count: int | None) -> None:
    """Limit the threads of this process."""
    if count is not None:
        import torch  # a command without this option may not need it

        torch.set_num_threads(count)


def _be_verbose(chosen: bool) -> None:
    if chosen:
        set_verbosity(1)


def _be_quiet(chosen: bool) -> None:
    if chosen:
        set_verbosity(-1)


@_options.command()
def _common(
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            min=1,
            callback=_set_threads,
            expose_value=False,
            help="Processor threads. [default: one for each core]",
            rich_help_panel="Common",
        ),
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            callback=_be_verbose,
            expose_value=False,
            help="Also print the time of each step.",
            rich_help_panel="Common",
        ),
    ] = False,
    quiet: Annotated[
        bool,
        typer.Option(
            "--quiet",
            "-q",
            callback=_be_quiet,
            expose_value=False,
            help="Print warnings and errors only.",
            rich_help_panel="Common",
        ),
    ] = False,
) -> None:
    """Declares the options."""


def common_parameters() -> list[Any]:
    """The options, as parameters of a command."""
    return [parameter for parameter in typer.main.get_command(_options).params if parameter.name != "help"]
