"""What mkdocs does beside copying pages: a reference of all commands, and links to other files."""

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from patchmorph.cli.commands import COMMANDS, load_command

REPOSITORY = Path(__file__).parents[1]
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)\s]*)?\)")

NAMED_FENCE = re.compile(r"^(```python) \w+$", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the page of all commands."""
    files.append(File.generated(config, "reference/cli.md", content=cli_reference()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace links to files beside the documentation by their paths; such a file must exist.

    Names of blocks that tests run in other environments (`` ```python ants``) are dropped.
    """
    folder = (REPOSITORY / "docs" / page.file.src_uri).parent

    def replace(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if target.is_relative_to(REPOSITORY / "docs"):
            return link[0]
        if not target.exists():
            raise PluginError(f"{page.file.src_uri}: link must lead to a file, got {link[2]}")
        path = f"`{target.relative_to(REPOSITORY)}`"
        text = link[1].strip("`")
        return path if text == path.strip("`") else f"{link[1]} ({path})"

    return LINK.sub(replace, NAMED_FENCE.sub(r"\1", markdown))


def cli_reference() -> str:
    """A section for each command, from the declarations that the program itself uses."""
    head = "# Commands\n\n`patchmorph --help` lists them, `patchmorph COMMAND --help` shows one."
    return "\n\n".join([head, *(section(name) for name in COMMANDS)]) + "\n"


def section(name: str) -> str:
    """Usage, description, arguments and options of a command."""
    command = load_command(name)
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join([f"patchmorph {name}", *(metavar(p) for p in arguments), "[OPTIONS]"])
    rows = [row(f"`{metavar(p)}`", p) for p in arguments]
    rows += [row(", ".join(f"`{each}`" for each in (*p.opts, *p.secondary_opts)), p) for p in options]
    table = "\n".join(["| argument or option | meaning | default |", "|---|---|---|", *rows])
    return f"## {name}\n\n```text\n{usage}\n```\n\n{(command.help or '').strip()}\n\n{table}"


def metavar(argument: Any) -> str:
    """How an argument is named in a command line."""
    return argument.name.upper() + ("…" if argument.nargs == -1 else "")


def row(label: str, parameter: Any) -> str:
    """One line of a table."""
    text = " ".join((parameter.help or "").split()).replace("|", "\\|")
    default = parameter.default
    absent = default is None or default is False or default == ()
    shown = "required" if parameter.required else "" if absent else f"`{default}`"
    return f"| {label} | {text} | {shown} |"
