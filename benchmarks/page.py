"""Writes docs/benchmarks.md and its figure from the result files.

python benchmarks/page.py
"""

import json
from pathlib import Path
from typing import Any

import machine
import page_peers
from matplotlib.figure import Figure
from page_peers import table

DOCS = Path(__file__).parents[1] / "docs"
FIGURE = "images/memory.png"
ACCURACY_FIGURE = "images/accuracy.png"
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
        tools=page_peers.by_machine("t1-labelled"),
        commands=page_peers.commands(),
        other_grids=page_peers.other_grids(),
        tissue=page_peers.compared("t1-tissue", "accuracy"),
        structures=page_peers.structures(),
        accuracy_figure=ACCURACY_FIGURE,
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
    page_peers.figure().savefig(DOCS / ACCURACY_FIGURE, dpi=130)


if __name__ == "__main__":
    main()
