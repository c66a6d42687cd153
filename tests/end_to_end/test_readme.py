"""What the README tells a reader to type works."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from brains import inside, moved_brain

from patchmorph import demo
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image, save_image

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(mni, tmp_path_factory) -> Path:
    """``fixed.nii.gz``, ``moving.nii.gz`` in another pose and ``labels.nii.gz``, as the README names them."""
    folder = tmp_path_factory.mktemp("readme")
    _, moving, _ = moved_brain(mni, folder, smoothly=False)
    labels = load_image(moving)
    save_image(Image((labels.data > 0.3).to(torch.int16) * 7, labels.grid), folder / "labels.nii.gz")
    return folder


def assert_recovered(warped: Image, mni: Image) -> None:
    brain = mni.data > 0.1
    values = torch.stack([mni.data[brain], warped.data[brain]])
    assert torch.corrcoef(values)[0, 1] > 0.92  # the same brain, interpolated twice at 2 mm: 0.94


def test_the_python_lines_run(folder, mni, monkeypatch, capsys):
    """In this process: the lines are the point, not a start of Python."""
    monkeypatch.chdir(folder)
    (code,) = blocks("python")
    lines: dict = {}
    exec(code, lines)
    assert_recovered(load_image(folder / "warped.nii.gz"), mni)
    result, points = lines["result"], lines["points"]
    truth, _ = demo.known_map(mni.grid)
    brain = inside(mni)
    assert (result.transform(brain) - truth(brain)).norm(dim=-1).mean() < 0.7  # mm; voxels are 2 mm
    assert (result.inverse(result.transform(points)) - points).norm(dim=-1).max() < 0.01
    smallest = float(capsys.readouterr().out.splitlines()[-1])
    assert 0.5 < smallest < 1  # of a pose, found by networks that bend a little


def test_the_commands_run(run, folder, mni, monkeypatch):
    monkeypatch.chdir(folder)
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    commands = [line.split()[1:] for line in lines if line.startswith("patchmorph")]
    assert [command[0] for command in commands] == ["register", "apply"]
    for arguments in commands:
        assert run(*arguments)[0] == 0
    assert_recovered(load_image(folder / "results" / "warped.nii.gz"), mni)
    assert (folder / "results" / "report.html").read_text().count("data:image/jpeg;base64,") == 21
    warped = load_image(folder / "warped_labels.nii.gz")
    assert set(warped.data.unique().tolist()) == {0, 7}
    brain = mni.data > 0.1
    assert ((warped.data == 7) == (mni.data > 0.3))[brain].float().mean() > 0.9  # but for the rim


def test_the_command_is_installed():
    done = subprocess.run([BIN / "patchmorph", "--help"], check=True, capture_output=True, text=True)
    assert "register" in done.stdout


def test_the_two_commands_of_the_set_up_are_targets():
    makefile = (REPOSITORY / "Makefile").read_text()
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("make ")]
    assert commands
    for command in commands:
        assert re.search(rf"^{command.split()[1]}:", makefile, flags=re.MULTILINE)


def test_files_that_the_readme_links_exist():
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert {"docs/transforms.md", "docs/train.md"} <= set(targets)
    assert [target for target in targets if not (REPOSITORY / target).exists()] == []


def overlap(results: dict, tool: str, file: str = "accuracy") -> dict[str, float]:
    """Mean figures on the 20 pairs."""
    wanted = {"set": "t1-labelled", "tool": tool, "device": "cpu", "pairs": 20}
    (group,) = [group for group in results[file]["groups"] if wanted.items() <= group.items()]
    return group["mean"]


def test_the_figures_are_those_of_the_result_files():
    results = {
        path.stem: json.loads(path.read_text()) for path in (REPOSITORY / "benchmarks/results").glob("*.json")
    }
    card = (REPOSITORY / "src/patchmorph/models/t1-brain.md").read_text(encoding="utf-8")
    before = overlap(results, "patchmorph")
    packaged = overlap(results, "patchmorph", "accuracy-pyramid")
    refined = overlap(results, "patchmorph-refine", "peers")
    for mean in (packaged, refined, before):
        row = f"| {mean['dice_aseg']:.3f} | {mean['dice_cortex']:.3f} | {mean['folding_percent']:.3f} % |"
        assert row in card, row
    greedy = overlap(results, "greedy", "peers")
    files = results["registration"]
    on_gpu = results["gpu-packaged"]["registration"]["network"]
    megabytes = results["daily"]["files_megabytes"]
    seconds = results["transforms"]["seconds"]
    for row in (
        *(
            f"{title} | " + " | ".join(f"{mean[figure]:.3f}{unit}" for mean in (packaged, refined))
            for title, figure, unit in (
                ("27 structures", "dice_aseg", ""),
                ("70 parcels", "dice_cortex", ""),
                ("fold", "folding_percent", " %"),
            )
        ),
        "SD of the log-Jacobian | "
        + " | ".join(f"{mean['sd_log_jacobian']:.2f}" for mean in (packaged, refined)),
        f"| {on_gpu['seconds_median']:.2f} s, {on_gpu['peak_allocated_gib']:.1f} GiB |",
        f"| {packaged['seconds']:.0f} s | {refined['seconds']:.0f} s |",
        f"Greedy reaches {greedy['dice_aseg']:.3f} and {greedy['dice_cortex']:.3f} on the same pairs, "
        f"in {greedy['seconds']:.0f} s",
        f"| {files['inverse_of_transform_mm_mean']:.2f} mm; "
        f"with the files {files['inverse_file_of_transform_file_mm_mean']:.2f} mm |",
        f"| {megabytes['transform.safetensors']} MB; {megabytes['transform.h5']} MB |",
        f"| {seconds['resampling']:.1f} s; {seconds['resampling_simpleitk']:.1f} s |",
        f"| {results['training']['unet']['steps_per_second']:.1f} steps/s |",
    ):
        assert row in README, row


def test_the_memory_that_the_readme_speaks_of_is_the_measured():
    rows = json.loads((REPOSITORY / "benchmarks/results/memory.json").read_text())["rows"]

    def reserved(network: str, side: str, size: int) -> str:
        wanted = {"what": "train", "mode": "bf16", "network": network, "side": side, "size": size}
        (row,) = [row for row in rows if wanted.items() <= row.items()]
        return f"{row['reserved_gib']:.1f}"

    for size in (128, 256):
        assert f"trains in {reserved('swin', 'patches', size)} GiB" in README
        assert f"U-Net in {reserved('unet', 'patches', size)} GiB" in README
    full = [reserved(network, "full volume", 256) for network in ("swin", "unet")]
    assert f"256³ take {full[0]} and {full[1]} GiB" in README


def test_the_page_of_benchmarks_is_written_from_the_results():
    sys.path.insert(0, str(REPOSITORY / "benchmarks"))
    try:
        page = importlib.import_module("page")
    finally:
        sys.path.pop(0)
    assert page.text() == (REPOSITORY / "docs/benchmarks.md").read_text(encoding="utf-8")
