"""The lines of the tutorials run, on brains that come with pip packages."""

import csv
import io
import re
import shlex
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch

from patchmorph.images.volume import Image
from patchmorph.io.images import load_image, save_image
from patchmorph.transforms.resample import resample

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and lines of each block, in order."""
    return re.findall(r"```(bash|python)\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def parts(brain: Image) -> Image:
    """Labels 1 to 3: below, and above on the left and on the right."""
    x, _, z = brain.grid.points_world()[0].unbind(-1)
    labels = torch.where(z < 10, 1, torch.where(x < 0, 2, 3))
    return Image(torch.where(brain.data > 0.1, labels, 0).to(torch.int16), brain.grid)


def test_volumes_of_a_scan(brains, run, tmp_path, monkeypatch):
    """The registration is that of the session: the lines are the point."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(brains.fixed, "scan.nii.gz")
    shutil.copy(brains.moving, "atlas.nii.gz")
    truth = parts(load_image(brains.fixed))
    atlas = resample(truth, brains.truth.inverse(), load_image(brains.moving).grid, "label")
    save_image(atlas, tmp_path / "atlas_labels.nii.gz")
    lines: dict = {}
    printed, commands = io.StringIO(), 0
    for language, code in blocks("tutorial-volumes.md"):
        if language == "python":
            with redirect_stdout(printed):
                exec(code, lines)
            continue
        _, *arguments = shlex.split(code)
        if arguments[0] == "register":
            assert arguments[1:] == ["scan.nii.gz", "atlas.nii.gz", "-o", "results"]
            shutil.copytree(brains.results, "results")
        else:
            assert run(*arguments)[0] == 0
        commands += 1
    assert commands == 3
    with open("volumes.csv", newline="") as file:
        volumes = {int(row["label"]): float(row["ml"]) for row in csv.DictReader(file)}
    voxel_mm3 = float(truth.grid.spacing_mm[0].prod())
    for label in (1, 2, 3):
        expected = int((truth.data == label).sum()) * voxel_mm3 / 1000
        np.testing.assert_allclose(volumes[label], expected, rtol=0.02)  # of a map that is 0.5 mm off
    assert printed.getvalue().count("% against the atlas") == 3
