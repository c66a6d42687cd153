"""Files for containers, conda and citation state what the package is."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from patchmorph.version import VERSION

REPOSITORY = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
CONTAINERS = ["Dockerfile", "packaging/apptainer/patchmorph.def"]
CONDA_NAMES = {"torch": "pytorch"}
"""Packages that conda-forge names otherwise."""


def split(requirement: str) -> tuple[str, str]:
    name, version = re.fullmatch(r"([\w-]+)\s*(>=.*)", requirement).groups()
    return CONDA_NAMES.get(name, name).lower(), version


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_are_of_a_python_that_the_package_supports(name):
    (version,) = re.findall(r"python:(\d+\.\d+)-slim", (REPOSITORY / name).read_text())
    minimum = PROJECT["requires-python"].removeprefix(">=")
    assert [int(n) for n in version.split(".")] >= [int(n) for n in minimum.split(".")]


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_install_extras_that_exist(name):
    (extras,) = re.findall(r"'\.\[(.+)\]'", (REPOSITORY / name).read_text())
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()


def test_files_that_go_into_containers_exist():
    docker = re.findall(r"^COPY (.+) \S+$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    apptainer = re.findall(
        r"^    (\S+) /opt/patchmorph/", (REPOSITORY / CONTAINERS[1]).read_text(), re.MULTILINE
    )
    copied = {name for line in docker for name in line.split()}
    kept = re.findall(r"^!(.+)$", (REPOSITORY / ".dockerignore").read_text(), re.MULTILINE)
    assert copied == set(apptainer) == set(kept)
    assert all((REPOSITORY / name).exists() for name in copied)
    licences = {name for name in PROJECT["license-files"] if not name.startswith("src/")}
    assert {PROJECT["readme"], *licences, "pyproject.toml", "src"} <= copied


@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_take_torch_in_the_version_of_the_tests(name):
    (pattern,) = re.findall(r"grep '(.+)' constraints.txt", (REPOSITORY / name).read_text())
    assert len(re.findall(pattern, (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)) == 1


@pytest.mark.parametrize("name", [*CONTAINERS, "packaging/conda/recipe.yaml"])
def test_commands_in_packaging_parse(name, run):
    commands = re.findall(
        r"\bpatchmorph(?:\.sif)? (register|models|--version)(.*)$", (REPOSITORY / name).read_text(), re.M
    )
    assert commands
    for command, rest in commands:
        options = [word for word in rest.split() if word.startswith("-")]
        assert run(command, *([] if command.startswith("--") else ["--help"]))[0] == 0
        assert options in ([], ["-o"])
    assert PROJECT["scripts"]["patchmorph"] == "patchmorph.__main__:main"


def test_the_conda_recipe_requires_what_the_package_requires():
    recipe = yaml.safe_load((REPOSITORY / "packaging/conda/recipe.yaml").read_text())
    required = dict(split(each) for each in PROJECT["dependencies"])
    run = [each for each in recipe["requirements"]["run"] if not each.startswith("python ")]
    assert dict(split(each) for each in run) == required
    assert recipe["context"]["python_min"] == PROJECT["requires-python"].removeprefix(">=")
    extras = PROJECT["optional-dependencies"]
    optional = dict(split(each) for name in ("report", "train", "itk") for each in extras[name])
    assert dict(split(each) for each in recipe["requirements"]["run_constraints"]) == optional
    assert recipe["build"]["python"]["entry_points"] == ["patchmorph = patchmorph.__main__:main"]


def test_versions_and_licences_agree():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    recipe = yaml.safe_load((REPOSITORY / "packaging/conda/recipe.yaml").read_text())
    assert citation["version"] == recipe["context"]["version"] == VERSION
    assert citation["license"] == recipe["about"]["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    assert citation["keywords"] == PROJECT["keywords"]


def test_the_paper_is_cited_as_in_the_readme():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["preferred-citation"]
    readme = (REPOSITORY / "README.md").read_text()
    for part in (
        citation["title"],
        citation["doi"],
        f"{citation['volume']}, {citation['start']}, {citation['year']}",
    ):
        assert part in readme


MODELS = REPOSITORY / "src" / "patchmorph" / "models"
SECTIONS = ("What it does", "Not for", "Architecture", "Data", "Recipe", "Figures", "Licence")


@pytest.mark.parametrize("model", sorted(path.stem for path in MODELS.rglob("*.safetensors")))
def test_each_model_has_a_card_with_all_sections_and_files_that_exist(model):
    (card,) = MODELS.rglob(f"{model}.md")
    text = card.read_text(encoding="utf-8")
    assert text.startswith(f"# Model card: {model}\n")
    assert [name for name in SECTIONS if f"\n**{name}.** " not in text] == []
    named = re.findall(r"`((?:benchmarks|configs|docs|recipes)/[\w./-]+)`", text)
    assert named
    assert [name for name in named if not (REPOSITORY / name).exists()] == []
