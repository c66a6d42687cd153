"""Writes docs/benchmarks.md and its figure from the result files.

python benchmarks/page.py
"""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import machine
from accuracy import OURS, PASSES, read_table
from matplotlib.figure import Figure

from patchmorph.evaluation.benchmark import ASEG

DOCS = Path(__file__).parents[1] / "docs"
FIGURE = "images/memory.png"
ACCURACY_FIGURE = "images/accuracy.png"
TOOLS = {
    "patchmorph": "PatchMorph",
    "patchmorph-refine": "PatchMorph, refined",
    "patchmorph-classical": "PatchMorph, no network",
    "greedy": "Greedy (NCC)",
    "ants-syn": "ANTs SyN",
    "ants-syn-quick": "ANTs SyNQuick",
    "fireants": "FireANTs",
}
SIZES = (128, 192, 256, 384, 512, 1024)
MODES = ("fp32", "bf16", "bf16 + checkpointing")
NAMES = {"swin": "Swin transformer", "unet": "U-Net"}
Row = dict[str, Any]


def results(name: str) -> dict[str, Any]:
    return json.loads((machine.RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def find(rows: list[Row], **wanted: object) -> Row:
    """The row with these values, or an empty one."""
    return next(iter(find_all(rows, **wanted)), {})


def find_all(rows: list[Row], **wanted: object) -> list[Row]:
    return [row for row in rows if wanted.items() <= row.items()]


def gib(row: Row) -> str:
    if row.get("out_of_memory"):
        return "out of memory"
    return f"{row['reserved_gib']:.2f}" if row else "-"


def table(head: tuple[str, ...], lines: list[list[str]]) -> str:
    rows = [list(head), ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def growth(rows: list[Row], what: str, modes: tuple[str, ...]) -> str:
    lines = []
    for network, name in NAMES.items():
        for side in ("patches", "full volume"):
            for mode in modes:
                found = [
                    find(rows, what=what, network=network, side=side, mode=mode, size=size) for size in SIZES
                ]
                if any(found):
                    lines.append([f"{name}, {side}", mode, *map(gib, found)])
    return table(("", "", *(f"{size}³" for size in SIZES)), lines)


def compared(rows: list[Row]) -> str:
    lines = []
    for network, name in NAMES.items():
        for mode in MODES:
            patches, full = (
                find(rows, what="train", network=network, side=side, mode=mode, size=256)
                for side in ("patches", "full volume")
            )
            lines.append(
                [
                    f"{name}, {mode}",
                    gib(patches),
                    gib(full),
                    f"{1e3 * patches['seconds']:.0f} ms",
                    f"{1e3 * full['seconds']:.0f} ms",
                    f"{full['seconds'] / patches['seconds']:.1f} times",
                ]
            )
    head = ("256³", "patches, GiB", "full volume, GiB", "patches, a step", "full volume, a step", "faster")
    return table(head, lines)


def tools(data: str, columns: tuple[str, ...], head: tuple[str, ...]) -> str:
    """A line for each tool and device of a data set."""
    lines = []
    for row in find_all(results("accuracy")["groups"], set=data):
        mean = row["mean"]
        seconds = f"{mean['seconds']:.2g}" if "seconds" in mean else "-"
        figures = [f"{mean[column]:.3f}" if column in mean else "-" for column in columns]
        lines.append([TOOLS[row["tool"]], row["device"].upper(), str(row["pairs"]), *figures, seconds])
    lines.sort(key=lambda line: line[3], reverse=True)
    return table(("", "on", "pairs", *head, "seconds"), lines)


def structures() -> str:
    """What our Dice is above Greedy's on the pairs that both have, and in how many structures."""
    rows = [row for row in read_table() if row["set"] == "t1-labelled"]
    by_pair = {row["pair"]: row for row in rows if row["tool"] == "greedy"}
    lines = []
    for tool, device in sorted({(row["tool"], row["device"]) for row in rows if row["tool"] in OURS}):
        mine = [
            row
            for row in rows
            if (row["tool"], row["device"]) == (tool, device) and row["pair"] in by_pair and row["dice_2"]
        ]
        gains = [
            fmean(float(row[f"dice_{label}"]) - float(by_pair[row["pair"]][f"dice_{label}"]) for row in mine)
            for label in ASEG
            if mine
        ]
        if gains:
            above = f"{sum(gain > 0 for gain in gains)} of {len(gains)}"
            ends = (f"{min(gains):+.3f}", f"{max(gains):+.3f}")
            means = [
                f"{fmean(float(row[group]) - float(by_pair[row['pair']][group]) for row in mine):+.3f}"
                for group in ("dice_aseg", "dice_cortex")
            ]
            lines.append([TOOLS[tool], device.upper(), str(len(mine)), *means, above, *ends])
    head = ("", "on", "pairs", "aseg", "cortex", "structures above", "least gain", "most gain")
    return table(head, lines)


def backbones() -> str:
    """The Swin of `benchmarks/backbones.py`, and the packaged U-Net, whose steps take as long as noted."""
    swin, unet = results("backbone-swin"), results("backbone-unet")
    training = results("training")["unet"]
    chain = find(results("memory")["rows"], what="train", network="unet", side="patches")
    columns = ("dice_aseg", "dice_cortex", "folding_percent")
    lines = [
        [
            f"Swin transformer, {swin['people']} people",
            f"{swin['parameters'] / 1e6:.1f} million",
            f"{swin['steps']:,}",
            f"{swin['minutes']:.1f}",
            f"{swin['reserved_gib']:.1f} GiB",
            *(f"{swin['mean'][name]:.3f}" for name in columns),
        ],
        [
            f"U-Net, {unet['people']} people",
            f"{chain['parameters'] / 1e6:.1f} million",
            f"{unet['steps']:,}",
            f"{unet_minutes():.1f}",
            f"{training['reserved_gib']:.1f} GiB",
            *(f"{unet['mean'][name]:.3f}" for name in columns),
        ],
    ]
    return table(
        ("", "parameters", "steps", "minutes", "memory", "aseg Dice", "cortex Dice", "folding %"), lines
    )


def unet_minutes() -> float:
    """What the first training of `t1-brain` takes at the measured speed, compiling included."""
    training = results("training")["unet"]
    return (
        results("backbone-unet")["steps"] / training["steps_per_second"] + training["seconds_to_compile"]
    ) / 60


def text() -> str:
    """The whole page."""
    memory = results("memory")
    rows = memory["rows"]
    patches = find_all(rows, what="train", side="patches")
    spread = []
    for network, name in NAMES.items():
        sizes = [row["reserved_gib"] for row in find_all(patches, network=network, mode="bf16")]
        spread.append(f"{name} {100 * (max(sizes) / min(sizes) - 1):.1f} %")
    template = Path(__file__).with_name("page.template.md").read_text(encoding="utf-8")
    return template.format(
        gpu=memory["machine"]["gpu"],
        torch=memory["machine"]["torch"],
        figure=FIGURE,
        compared=compared(rows),
        training=growth(rows, "train", MODES),
        inference=growth(rows, "infer", ("bf16",)),
        spread=", ".join(spread),
        parameters=find(rows, what="train", network="swin", side="patches")["parameters"] / 1e6,
        speed=speed(results("training")),
        backbones=backbones(),
        unet_minutes=unet_minutes(),
        tools=tools(
            "t1-labelled",
            ("dice_aseg", "dice_cortex", "folding_percent"),
            ("aseg Dice", "cortex Dice", "folding %"),
        ),
        tissue=tools("t1-tissue", ("dice", "folding_percent"), ("tissue Dice", "folding %")),
        structures=structures(),
        passes=PASSES,
        accuracy_figure=ACCURACY_FIGURE,
        processor=results("accuracy")["machines"]["cpu"]["processor"],
        threads=results("accuracy")["machines"]["cpu"]["threads"],
        doubt=results("uncertainty")["spearman_mean"],
        doubts=len(results("uncertainty")["pairs"]),
    )


def speed(figures: dict[str, Any]) -> str:
    lines = []
    for network, name in NAMES.items():
        if network in figures:
            row = figures[network]
            rate, memory = f"{row['steps_per_second']:.1f}", f"{row['reserved_gib']:.2f}"
            lines.append([name, rate, memory])
    swin = results("backbone-swin")
    rate, memory = f"{swin['steps_per_second_median']:.1f}", f"{swin['reserved_gib']:.2f}"
    lines.append([f"{NAMES['swin']}, in its training below", rate, memory])
    return table(("8 chains", "steps a second", "GiB"), lines)


def draw_accuracy(path: Path) -> None:
    """Dice of the subcortical structures against seconds, for the tools whose time is known."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for row in find_all(results("accuracy")["groups"], set="t1-labelled"):
        mean = row["mean"]
        if "seconds" in mean:
            mark = "o" if row["tool"] in OURS else "s"
            colour = "tab:red" if row["tool"] in OURS else "tab:gray"
            axes.plot(mean["seconds"], mean["dice_aseg"], mark, color=colour)
            name = f"{TOOLS[row['tool']]}, {row['device'].upper()}"
            where = (mean["seconds"], mean["dice_aseg"])
            axes.annotate(name, where, (5, 5), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.15)
    axes.set_xlabel("seconds a pair")
    axes.set_ylabel("aseg Dice")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def draw(path: Path) -> None:
    """Memory against the size of the image, both axes logarithmic."""
    rows = results("memory")["rows"]
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for network, colour in (("swin", "tab:red"), ("unet", "tab:blue")):
        for side, style in (("full volume", "--"), ("patches", "-")):
            found = find_all(rows, what="train", mode="bf16", network=network, side=side)
            chosen = sorted((row["size"], row["reserved_gib"]) for row in found if "reserved_gib" in row)
            axes.plot(
                *zip(*chosen, strict=True),
                style,
                marker="o",
                color=colour,
                label=f"{NAMES[network]}, {side}",
            )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(SIZES, [f"{size}³" for size in SIZES])
    ticks = (0.5, 1, 2, 4, 8, 16, 32, 64)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("voxels of each image")
    axes.set_ylabel("training memory, GiB (bf16)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def main() -> None:
    (DOCS / "benchmarks.md").write_text(text(), encoding="utf-8")
    draw(DOCS / FIGURE)
    draw_accuracy(DOCS / ACCURACY_FIGURE)


if __name__ == "__main__":
    main()
