"""Files for containers, conda and citation state what the package is."""

import csv
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from patchmorph.doctor import EXTRAS
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


def test_a_release_uses_each_extra_alone():
    release = (REPOSITORY / "packaging/release.sh").read_text()
    (extras,) = re.findall(r"^for extra in (.+); do$", release, re.M)
    assert extras.split() == list(EXTRAS)
    assert PROJECT["optional-dependencies"].keys() == {*EXTRAS, "docs", "dev"}


def test_an_audit_names_versions_that_are_older_than_the_fix(tmp_path):
    table = tmp_path / "advisories.csv"
    table.write_text(
        "package,fixed,advisory,what,accepted\none,2.10,CVE-1,it breaks,\ntwo,,CVE-2,it leaks,never called\n"
        "three,,CVE-3,it hangs,\n"
    )
    source = (REPOSITORY / "packaging/audit.py").read_text()
    names = {"__name__": "audit", "__file__": str(REPOSITORY / "packaging/audit.py")}
    exec(compile(source, "audit.py", "exec"), names)
    concerned = names["concerned"]
    assert concerned({"one": "2.10", "two": "1", "four": "0"}, table) == []
    assert concerned({"one": "2.9"}, table) == ["one must be 2.10 or newer (CVE-1: it breaks), got 2.9"]
    assert len(concerned({"one": "2.10rc1", "three": "9"}, table)) == 2
    assert concerned({"pillow": "12.2.0", "torch": "2.13.0+cpu"}) == [
        "pillow must be 13.0.0 or newer (CVE-2026-112403: the heap overflows while a JPEG is decoded), "
        "got 12.2.0"
    ]
    assert all(
        row["fixed"] or row["accepted"] for row in csv.DictReader(names["TABLE"].read_text().splitlines())
    )


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
