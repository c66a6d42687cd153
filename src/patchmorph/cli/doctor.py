"""The command that examines the installation."""

import typer

from patchmorph.cli.app import app, console

BROKEN = 1
"""Exit status where a part of the installation does not work."""


@app.command()
def doctor() -> None:
    """Print versions, devices and memory, and whether each extra works.

    The exit code is 1 if something that is installed does not work.
    """
    from patchmorph.doctor import examine

    broken = False
    for finding in examine():
        console.print(f"{finding.name:<14} {finding.text}")
        broken |= not finding.works
    if broken:
        raise typer.Exit(BROKEN)
