"""What the pages of the documentation tell a reader to type exists; their commands and options parse."""

import json
import re
import shlex
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer
import yaml

from patchmorph.cli.app import app
from patchmorph.cli.commands import COMMANDS, load_command

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("reference/*.md"), REPOSITORY / "README.md"])
TASKS = ("register", "template", "difficult", "microscopy", "evaluate", "when-it-fails", "python", "README")
"""Pages whose options are all ours."""


def commands(page: Path) -> list[str]:
    """Command lines in blocks and in the text, those in loops of a shell included."""
    text = page.read_text(encoding="utf-8")
    blocks = [
        line
        for block in re.findall(r"```(?:bash|text)\n(.*?)```", text, re.DOTALL)
        for line in block.split("\n")
    ]
    inline = re.findall(r"`(patchmorph [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [line.strip() for line in [*blocks, *inline] if line.strip().startswith("patchmorph ")]


def parse(line: str) -> None:
    """Parse a command line as the program does, without running the command."""
    group = typer.main.get_command(app)
    context = group.make_context("patchmorph", shlex.split(line)[1:], resilient_parsing=False)
    name, command, rest = group.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(name, rest, parent=context)


LINES = [(page, line) for page in PAGES for line in commands(page)]


@pytest.mark.parametrize(
    ("page", "line"), [pytest.param(page, line, id=f"{page.stem}: {line[:60]}") for page, line in LINES]
)
def test_commands_parse(page, line):
    words = shlex.split(line)
    if all(word.startswith("-") or word == "COMMAND" for word in words[2:]):  # a name, with options at most
        assert words[1] in (*COMMANDS, "COMMAND", "--help", "--version", "--install-completion")
        assert {*words[2:]} <= options()
    else:
        parse(line)


def test_the_parser_rejects_what_does_not_exist():
    for line in (
        "patchmorph register a b -o c --no-such-option",
        "patchmorph nothing a",
        "patchmorph register a",
    ):
        with pytest.raises(Exception, match=r"(?i)no such (option|command)|missing (argument|parameter)"):
            parse(line)


def options() -> set[str]:
    found = {"--help", "--version"}
    for name in COMMANDS:
        found.update(each for p in load_command(name).params for each in (*p.opts, *p.secondary_opts))
    return found


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem in TASKS], ids=lambda page: page.stem)
def test_options_that_the_text_names_exist(page):
    text = page.read_text(encoding="utf-8")
    words = [word for code in re.findall(r"`([^`\n]+)`", text) for word in code.split()]
    named = {word.partition("=")[0] for word in words if re.fullmatch(r"-{1,2}[a-z][\w-]*(=.*)?", word)}
    foreign = {"--index-url", "--no-deps"}  # of pip
    assert named - options() - foreign == set()


def test_every_page_is_in_the_menu():
    menu = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]

    def pages(entries):
        for entry in entries:
            for value in entry.values() if isinstance(entry, dict) else [entry]:
                yield from pages(value) if isinstance(value, list) else [value]

    listed = list(pages(menu))
    existing = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert existing | {"reference/cli.md"} == {*listed}
    assert len(listed) == len({*listed})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_and_pictures_lead_to_files(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
    generated = {DOCS / "reference" / "cli.md"}
    missing = [t for t in targets if not (page.parent / t).exists() and page.parent / t not in generated]
    assert missing == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem == "index"])
def test_every_task_is_on_the_first_page(page):
    text = page.read_text(encoding="utf-8")
    for name in (
        "install",
        "register",
        "template",
        "transforms",
        "difficult",
        "microscopy",
        "python",
        "train",
    ):
        assert f"({name}.md)" in text


def test_the_reference_of_commands_is_that_of_the_program(monkeypatch):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (the extra docs)")
    monkeypatch.syspath_prepend(DOCS)
    import hooks

    text = hooks.cli_reference()
    for name in COMMANDS:
        section = text.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert load_command(name).help.split("\n")[0] in section
        for parameter in load_command(name).params:
            shown = parameter.opts if parameter.param_type_name == "option" else [parameter.name.upper()]
            assert all(f"`{each}" in section for each in shown), (name, parameter.name)


@pytest.mark.parametrize("page", ["docs/install.md", "docs/decisions/006-dependencies.md"])
def test_the_size_of_the_install_is_the_measured(page):
    measured = json.loads((REPOSITORY / "benchmarks/results/install.json").read_text())
    text, packages = (REPOSITORY / page).read_text(encoding="utf-8"), measured["packages_mb"]
    for megabytes in (measured["total_mb"], packages["numpy"], packages["patchmorph"]):
        assert f"{megabytes:.0f} MB" in text or f"| {megabytes:.0f} |" in text


@pytest.mark.parametrize("name", ["docs/python.md"])
def test_names_of_the_python_interface_exist(name):
    import patchmorph

    text = (REPOSITORY / name).read_text(encoding="utf-8")
    for used in re.findall(r"\bpatchmorph\.([A-Za-z_]+)\b(?!/)", text):
        assert hasattr(patchmorph, used), used


def test_the_picture_of_the_rooms_is_the_contract():
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    layers = [[room.strip() for room in layer.split("|")] for layer in contracts[0]["layers"]]
    picture = ElementTree.parse(DOCS / "images" / "rooms.svg")
    name = "{http://www.w3.org/2000/svg}"
    shown = [
        [text.text for text in group.findall(f"{name}text[@class='room']")]
        for group in picture.findall(f"{name}g")
    ]
    assert shown == layers
