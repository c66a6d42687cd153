"""The list of commands, each loaded from its module when it is run: the list itself loads no torch."""

import gc
import importlib
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from patchmorph.heap import keep_freed_memory
from patchmorph.progress import step


class Entry(NamedTuple):
    """Where a command is.

    Attributes:
        module: name of its module in this package.
        summary: first line of its help.
    """

    module: str
    summary: str


COMMANDS = {
    "register": Entry("registration", "Register MOVING to FIXED."),
    "apply": Entry("transforms", "Resample images through a transform onto a reference grid."),
    "apply-points": Entry("points", "Map points from the fixed to the moving image."),
    "regions": Entry(
        "regions", "Write the volume of each region of an atlas in an image, and the number of cells in it."
    ),
    "compose": Entry("transforms", "Compose several transforms into one."),
    "invert": Entry("transforms", "Write the inverse."),
    "convert": Entry("transforms", "Write a transform as another tool's file."),
    "jacobian": Entry("transforms", "Write the Jacobian determinant of a transform."),
    "train": Entry("training", "Train a model on the images that CONFIG names."),
    "evaluate": Entry(
        "training", "Register every pair of a table; measure overlap, distances, folding and time."
    ),
    "batch": Entry("cohorts", "Register every pair of a cohort, several at a time."),
    "template": Entry("cohorts", "Make the mean image of a cohort, in its mean shape."),
    "report": Entry("registration", "Render the report of a registration again, or that of a training."),
    "models": Entry("registration", "List the packaged models."),
    "demo": Entry("registration", "Register two real brains from pip packages and write a report."),
    "doctor": Entry("doctor", "Print versions, devices and memory, and whether each extra works."),
}


class DeferredCommand(TyperCommand):
    """A command whose module is loaded when its arguments are read.

    Args:
        name: of the command.
        summary: first line of its help.
        load: returns the command itself.
    """

    def __init__(self, name: str, summary: str, load: Callable[[], Any]):
        super().__init__(name, help=summary)
        self._load = load

    def make_context(self, *arguments: Any, **named: Any) -> Any:
        """The context of the command itself, which parses the arguments."""
        with step("load libraries"), _kept():
            command = self._load()
        keep_freed_memory()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # from here on there is what must be undone
        return command.make_context(*arguments, **named)


@contextmanager
def _kept() -> Iterator[None]:
    """Keep what is loaded in the block out of the search for garbage, now and for good.

    PyTorch's modules hold hundreds of thousands of objects that stay until the end; to search them takes half
    a second, most of it when the process ends.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class DeferredGroup(TyperGroup):
    """The commands of `COMMANDS`, deferred.

    Each command module registers its commands with `patchmorph.cli.app.app` as it is imported.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, in the order in which the help shows them."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in for the command; ``None``: there is none of that name."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        return DeferredCommand(cmd_name, entry.summary, lambda: load_command(cmd_name))


def load_command(name: str) -> Any:
    """The command itself, with the options that all commands have."""
    from patchmorph.cli.app import app
    from patchmorph.cli.common import common_parameters

    importlib.import_module(f"patchmorph.cli.{COMMANDS[name].module}")
    group = typer.main.get_group(app)
    command = group.commands[name]
    command.params.extend(common_parameters())
    return command
