"""What the README tells a reader to type works."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_python_lines_run(brain_files):
    (code,) = blocks("python")
    subprocess.run([sys.executable, "-c", code], cwd=brain_files, check=True)
    assert (brain_files / "warped.nii.gz").is_file()


def test_the_commands_run(brain_files):
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    commands = [line.split()[1:] for line in lines if line.startswith("patchmorph")]
    assert len(commands) >= 2
    for arguments in commands:
        command = [BIN / "patchmorph", *arguments]
        subprocess.run(command, cwd=brain_files, check=True, capture_output=True)
    assert (brain_files / "results" / "report.html").is_file()
    assert (brain_files / "warped_labels.nii.gz").is_file()


def test_the_two_commands_of_the_set_up_are_targets():
    makefile = (REPOSITORY / "Makefile").read_text()
    commands = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("make ")]
    assert commands
    for command in commands:
        assert re.search(rf"^{command.split()[1]}:", makefile, flags=re.MULTILINE)


def test_files_that_the_readme_links_exist():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (REPOSITORY / target).exists(), target


def overlap(results: dict, tool: str) -> dict[str, float]:
    """Mean figures of the packaged weights on the 20 pairs."""
    wanted = {"set": "t1-labelled", "tool": tool, "device": "cpu", "pairs": 20}
    (group,) = [group for group in results["accuracy"]["groups"] if wanted.items() <= group.items()]
    return group["mean"]


def test_the_figures_are_those_of_the_result_files():
    results = {
        path.stem: json.loads(path.read_text()) for path in (REPOSITORY / "benchmarks/results").glob("*.json")
    }
    card = (REPOSITORY / "src/patchmorph/models/t1-brain.md").read_text(encoding="utf-8")
    accuracy = overlap(results, "patchmorph")
    refined = overlap(results, "patchmorph-refine")
    for mean in (accuracy, refined):
        row = f"| {mean['dice_aseg']:.3f} | {mean['dice_cortex']:.3f} | {mean['folding_percent']:.3f} % |"
        assert row in card, row
    greedy = overlap(results, "greedy")
    files, gpu = results["registration"], results["gpu"]["registration"]
    megabytes = results["transforms"]["pairs"]["LIA"]["megabytes"]
    seconds = results["transforms"]["seconds"]
    for row in (
        f"27 structures | {accuracy['dice_aseg']:.3f} | {refined['dice_aseg']:.3f} |",
        f"70 parcels | {accuracy['dice_cortex']:.3f} | {refined['dice_cortex']:.3f} |",
        f"fold | {accuracy['folding_percent']:.3f} % | {refined['folding_percent']:.3f} % |",
        f"| {gpu['network']['seconds_median']:.2f} s, {gpu['network']['peak_allocated_gib']:.1f} GiB "
        f"| {gpu['refined']['seconds_median']:.1f} s, {gpu['refined']['peak_allocated_gib']:.1f} GiB |",
        f"| {files['command_seconds_median']:.1f} s, {files['command_peak_gib']:.1f} GiB "
        f"| {refined['seconds']:.0f} s |",
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
