"""The lines of the tutorials run, on brains that come with pip packages."""

import csv
import io
import json
import re
import shlex
import shutil
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import yaml
from synthetic import AFFINES, grid_around, lopsided, smooth_image
from tiny import MODEL

from patchmorph.images.volume import Image
from patchmorph.io.images import load_image, save_image
from patchmorph.networks.contract import check_answer
from patchmorph.networks.model import PatchMorphModel
from patchmorph.training.config import TrainingConfig
from patchmorph.transforms.resample import resample

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and lines of each block, in order."""
    return re.findall(
        r"```(bash|python|yaml|csv)\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL
    )


def parts(brain: Image) -> Image:
    """Labels 1 to 3: below, and above on the left and on the right."""
    x, _, z = brain.grid.points_world()[0].unbind(-1)
    labels = torch.where(z < 10, 1, torch.where(x < 0, 2, 3))
    return Image(torch.where(brain.data > 0.1, labels, 0).to(torch.int16), brain.grid)


def run_blocks(page: str, run, replaced: dict[str, str], more: dict[str, list[str]]) -> tuple[list[str], str]:
    """Run a page with words ``replaced`` and ``more`` arguments a command; the commands and their output."""
    lines, printed, commands = {}, io.StringIO(), []
    for language, code in blocks(page):
        for old, new in replaced.items():
            code = code.replace(old, new)
        if language == "python":
            with redirect_stdout(printed):
                exec(code, lines)
            continue
        if language != "bash":
            continue
        for line in code.splitlines():
            program, *arguments = shlex.split(line)
            if program == "patchmorph":
                status, said, error = run(*arguments, *more.get(arguments[0], []))
                assert status == 0, error
                printed.write(said)
                commands.append(arguments[0])
    return commands, printed.getvalue()


def mouse(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """A toy of the Allen atlas where BrainGlobe keeps it; the same brain, shifted, as sections from the back.

    Returns:
        Regions of the atlas, and those of the scan as voxels of its sections (slices, rows, columns).
    """
    brain = lopsided(grid_around((40, 44, 36), AFFINES["RAS"] * 5))
    y = torch.arange(44)[:, None]
    labels = torch.where(brain.data[0, 0] > 0.2, torch.where(y < 22, 7, 614454277), 0).numpy()
    intensities = (1000 * brain.data[0, 0]).numpy().astype(np.uint16)
    place = folder / "atlases" / "allen_mouse_300um_v1.2"
    place.mkdir(parents=True)
    content = {"resolution": [300.0] * 3, "orientation": "asr", "symmetric": True}
    (place / "metadata.json").write_text(json.dumps(content))
    structures = [
        {"id": 7, "acronym": "CB", "name": "Back"},
        {"id": 614454277, "acronym": "CTX", "name": "Front"},
    ]
    (place / "structures.json").write_text(json.dumps(structures))
    for name, values in (("reference", intensities), ("annotation", labels.astype(np.uint32))):
        tifffile.imwrite(place / f"{name}.tiff", values.transpose(1, 2, 0)[::-1, ::-1, ::-1])
    (folder / "bg_config.conf").write_text(f"[default_dirs]\nbrainglobe_dir = {folder / 'atlases'}\n")
    shifted = [np.roll(values, (2, -1), (0, 1)) for values in (intensities, labels)]
    scan, regions = (values.transpose(1, 2, 0)[:, ::-1] for values in shifted)
    (folder / "brain_tiffs").mkdir()
    for number, section in enumerate(scan):
        tifffile.imwrite(folder / "brain_tiffs" / f"{number:03d}.tif", section)
    return labels, regions


def test_cells_in_the_regions_of_a_mouse(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRAINGLOBE_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("PATCHMORPH_CACHE", str(tmp_path / "cache"))
    labels, regions = mouse(tmp_path)
    voxels = np.argwhere(regions > 0)[::97]
    Path("cells.csv").write_text("x,y,z\n" + "".join(f"{x},{y},{z}\n" for z, y, x in voxels))
    commands, printed = run_blocks(
        "tutorial-microscopy.md",
        run,
        {"25um": "300um", "0.025": "0.3"},
        {"register": ["--transform", "affine"]},
    )
    assert commands == ["register", "apply", "regions", "apply-points"]
    assert "(40, 36, 44) columns, rows, sections" in printed
    with open("regions.csv", newline="") as file:
        table = {row["acronym"]: row for row in csv.DictReader(file)}
    found = load_image("regions.nii.gz").values()[0, 0].numpy()
    for acronym, label in (("CB", 7), ("CTX", 614454277)):
        expected = (regions == label).sum() * 0.3**3
        np.testing.assert_allclose(float(table[acronym]["mm3"]), expected, rtol=0.05)
        np.testing.assert_allclose((found == label).sum() * 0.3**3, expected, rtol=0.05)
        cells = (regions[tuple(voxels.T)] == label).sum()
        np.testing.assert_allclose(int(table[acronym]["cells"]), cells, rtol=0.05)
    with open("cells_in_atlas.csv", newline="") as file:
        in_atlas = np.array([[float(row[axis]) for axis in "xyz"] for row in csv.DictReader(file)])
    there = np.stack([voxels[:, 2], voxels[:, 0], 35 - voxels[:, 1]], 1) - (
        2,
        -1,
        0,
    )  # RAS voxels of the atlas
    off = np.linalg.norm(in_atlas - 0.3 * (there - (np.array(labels.shape) - 1) / 2), axis=1)
    assert off.mean() < 0.15  # half a voxel


@pytest.mark.slow
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


@pytest.fixture
def backbone(tmp_path, monkeypatch) -> list[dict]:
    """Files of the page on a new network, and its two trainings, made small: two steps, patches of 16³."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)  # of another page
    page = blocks("tutorial-network.md")
    Path("my_networks.py").write_text(page[0][1])
    Path("pairs.csv").write_text(next(code for language, code in page if language == "csv"))
    trainings = [yaml.safe_load(code) for language, code in page if language == "yaml"]
    small = {key: value for key, value in MODEL.items() if key != "dense"}
    for number, name in enumerate(("RAS", "LPS")):
        brain = smooth_image(grid_around((19, 22, 18), AFFINES[name] * 8, (3 * number, 0, 0)))
        labels = Image((brain.data * 5).to(torch.int16), brain.grid)
        for path in (f"brains/{number}", f"test/{'ab'[number]}"):
            save_image(brain, tmp_path / f"{path}.nii.gz")
        save_image(labels, tmp_path / f"test/{'ab'[number]}_labels.nii.gz")
    return [
        training | {"model": small | training["model"], "optimization": {"steps": 2, "batch": 1}}
        for training in trainings
    ]


def test_a_new_backbone_keeps_the_contract_and_both_trainings_are_valid(backbone):
    new, baseline = (TrainingConfig.model_validate(content | {"folder": "."}) for content in backbone)
    assert new.model_copy(update={"model": baseline.model, "run": baseline.run}) == baseline
    (network, *_) = PatchMorphModel(new.model).dense
    check_answer(network, 16, affine=False)
    assert not network(torch.rand(1, 2, 16, 16, 16)).any()


@pytest.mark.slow
def test_a_new_backbone_is_trained_and_compared(backbone, run):
    for content in backbone:
        Path(f"{content['run']['output']}.yaml").write_text(yaml.safe_dump(content))
    commands, printed = run_blocks("tutorial-network.md", run, {}, {})
    assert commands == ["train", "train", "report", "register", "evaluate"]
    assert "torch.Size([1, 3, 32, 32, 32])" in printed
    assert printed.count("'dilated_model mean'") == printed.count("'unet_model mean'") > 5
    assert Path("dilated/report.html").exists()
    assert json.loads(Path("result/summary.json").read_text())["arguments"]["model"].startswith("dilated")
    summary = json.loads(Path("figures/summary.json").read_text())
    assert (list(summary["tools"]), summary["failed"]) == (["dilated_model", "unet_model"], 0)
