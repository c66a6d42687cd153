"""Picture of docs/evaluate.md: what the page of an evaluation says of three tools.

    python benchmarks/evaluated_page.py

The Dice is that of the 20 pairs in results/accuracy-pyramid.csv and results/accuracy.csv. The picture is a
screenshot in headless Chromium, as in `pictures.py`.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

import accuracy
import machine
import pictures
from playwright.sync_api import sync_playwright

from patchmorph.evaluation.benchmark import ASEG, PairResult
from patchmorph.evaluation.comparison import Evaluation
from patchmorph.evaluation.structures import StructureResult
from patchmorph.report.cohort import write_cohort
from patchmorph.report.tools import render_tools

TOOLS = {"patchmorph": "accuracy-pyramid", "greedy": "accuracy", "ants-syn-quick": "accuracy"}
"""And the tables that they are in."""
NAN = float("nan")
FIGURES = ("dice_cortex",)
SIZE: Any = {"width": 1150, "height": 1250}


def main() -> None:
    results = [one for tool, table in TOOLS.items() for one in results_of(tool, table)]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        page = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=[*pictures.CHROMIUM]
        ).new_page(viewport=SIZE)
        page.goto(write_cohort([], Path(folder), "tools", render_tools(Evaluation.of(results))).as_uri())
        top = page.get_by_role("heading", name="Tools", exact=True).bounding_box()
        assert top is not None
        clip: Any = {"x": 0, "y": top["y"], "width": SIZE["width"], "height": SIZE["height"] - top["y"]}
        pictures.save(pictures.picture_of(page.screenshot(clip=clip)), "tools.png")


def results_of(tool: str, table: str) -> list[PairResult]:
    """The rows of a tool, as an evaluation has them."""
    rows = accuracy.read_table(machine.RESULTS / f"{table}.csv")
    return [result(row) for row in rows if (row["set"], row["tool"]) == ("t1-labelled", tool)]


def result(row: dict[str, str]) -> PairResult:
    structures = [
        StructureResult(label, float(row[f"dice_{label}"]), NAN, NAN, NAN, NAN)
        for label in ASEG
        if row[f"dice_{label}"]
    ]
    figures: dict[str, Any] = {name: float(row[name]) for name in FIGURES if row[name]}
    figures |= {"dice": float(row["dice_aseg"]), "structures": tuple(structures)}
    fixed, _, moving = row["pair"].partition("-")
    return PairResult(fixed, moving, tool=row["tool"], **figures)


if __name__ == "__main__":
    main()
