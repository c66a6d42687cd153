"""The comparison with other tools on the benchmark page, from results/peers.csv and peers.json."""

import json
from collections import Counter
from collections.abc import Callable
from statistics import fmean
from typing import Any

import machine
from accuracy import read_table
from matplotlib.figure import Figure

from patchmorph.evaluation.benchmark import ASEG

NAMES = {
    "patchmorph": "PatchMorph",
    "patchmorph-refine": "PatchMorph, refined",
    "greedy": "Greedy",
    "ants-syn": "ANTs SyN",
    "ants-syn-quick": "ANTs SyNQuick",
    "ants-syn-cc": "ANTs SyN[CC]",
    "niftyreg": "NiftyReg",
    "niftyreg-vel": "NiftyReg, velocities",
    "dipy-syn": "dipy SyN",
    "demons": "SimpleITK demons",
    "elastix": "elastix",
    "convexadam": "ConvexAdam",
    "fireants": "FireANTs",
    "full-volume-unet": "U-Net on the full volume",
    "full-volume-swin": "Swin transformer on the full volume",
    "patches": "PatchMorph, minutes of training",
}
TRAINED = {"full-volume-unet": "unet", "full-volume-swin": "swin", "patches": "patches"}
"""Tools whose models `full_volume.py` trained, and the networks there."""
OURS = ("patchmorph", "patchmorph-refine")
DIPY = "https://docs.dipy.org/stable/examples_built/registration"
NIFTYREG = "https://github.com/KCL-BMEIS/niftyreg/wiki"
ANTS = "(https://github.com/ANTsX/ANTs/wiki/Anatomy-of-an-antsRegistration-call)"
COMMANDS = {
    "patchmorph": "`patchmorph register FIXED MOVING -o DIR`",
    "patchmorph-refine": "`patchmorph register FIXED MOVING -o DIR --best`",
    "greedy": "`greedy -m NCC 2x2x2`, affine `-dof 12 -n 100x50x10` and deformable `-n 100x50x30`, from the "
    "[quick start](https://greedy.readthedocs.io/en/latest/) with 30 instead of 10 last iterations",
    "ants-syn": "`ants.registration` with `SyN`, its "
    "[default](https://antspy.readthedocs.io/en/latest/registration.html)",
    "ants-syn-quick": f"`antsRegistrationSyNQuick.sh -t s`, [the script for a first look]{ANTS}",
    "ants-syn-cc": f"`antsRegistrationSyN.sh -t s`, [the script for brains]{ANTS}",
    "niftyreg": f"`reg_aladin`, then `reg_f3d` as its [documentation]({NIFTYREG}) calls them",
    "niftyreg-vel": "`reg_aladin`, then `reg_f3d -vel`",
    "dipy-syn": f"[affine]({DIPY}/affine_registration_3d.html) and [SyN]({DIPY}/syn_registration_3d.html) "
    "with `CCMetric(3)`, as in its tutorials, with 100, 100 and 25 iterations",
    "demons": "affine by mutual information, matched histograms, fast symmetric diffeomorphic demons at "
    "three resolutions ([example](https://simpleitk.readthedocs.io/en/master/link_DemonsRegistration2_docs.html))",
    "elastix": "the default translation, affine and B-spline maps "
    "([manual](https://elastix.dev)), B-splines of 5 mm, by the development release of SimpleITK that has it",
    "convexadam": "SimpleITK's affine map, since it needs one grid; then `convex_adam_pt` with MIND and "
    "[its own values](https://github.com/multimodallearning/convexAdam)",
    "fireants": "centres of mass, affine and greedy registration as its "
    "[documentation](https://fireants.readthedocs.io/) does",
}
FULL_VOLUME = (
    "our affine stage, then one pass of our network on 192³ voxels of 1 mm, as VoxelMorph or TransMorph is "
    "used, without the smoothing of `patchmorph register`"
)
LONGER = """
PatchMorph's packaged networks were trained for longer, and with labels
([decision 011](decisions/011-feature-pyramid.md)). The lines of the networks with the settings of
`benchmarks/full_volume.py` say what some minutes without labels give on the full volume and on patches."""
Row = dict[str, Any]
Format = Callable[[float], str]
COLUMNS: tuple[tuple[str, str, Format], ...] = (
    ("dice_aseg", "aseg Dice", "{:.3f}".format),
    ("ours", "PatchMorph's there", "{:.3f}".format),
    ("dice_cortex", "cortex Dice", "{:.3f}".format),
    ("dice", "tissue Dice", "{:.3f}".format),
    ("folding_percent", "folding %", "{:.3f}".format),
    ("sd_log_jacobian", "SD log J", "{:.2f}".format),
    ("inverse_mm", "inverse, mm", "{:.3f}".format),
    ("both_ways_mm", "both ways, mm", "{:.2f}".format),
    ("seconds", "seconds", lambda seconds: f"{float(f'{seconds:.2g}'):g}"),
    ("peak_gib", "GiB", "{:.1f}".format),
)
"""Key, heading and format; a tissue set has only the one mean."""


def table(head: tuple[str, ...], lines: list[list[str]]) -> str:
    rows = [list(head), ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def groups(data: str, name: str = "peers") -> list[Row]:
    """Means a tool, device and machine, the best first."""
    found = json.loads((machine.RESULTS / f"{name}.json").read_text(encoding="utf-8"))["groups"]
    chosen = [row for row in found if row["set"] == data and row["tool"] in NAMES and row["mean"]]
    return sorted(chosen, key=lambda row: -row["mean"].get("dice_aseg", row["mean"]["dice"]))


def machines(data: str) -> list[str]:
    """The machines of a data set, that of most tools first."""
    counts = Counter(row["machine"] for row in groups(data))
    return [name for name, _ in counts.most_common()]


def by_machine(data: str) -> str:
    """A table for each machine."""
    found = [row | {"mean": row["mean"] | _ours_there(row)} for row in groups(data)]
    tables = []
    for name in machines(data):
        lines = lines_of([row for row in found if row["machine"] == name])
        tables.append(f"{name}:\n\n{lines}")
    return "\n\n".join(tables)


def _ours_there(group: Row) -> dict[str, float]:
    """PatchMorph's Dice on the pairs of another tool."""
    rows = [row for row in read_table(machine.RESULTS / "peers.csv") if row["set"] == group["set"]]
    kind = ("tool", "device", "machine")
    pairs = {row["pair"] for row in rows if all(row[key] == group[key] for key in kind) and row["dice_2"]}
    ours = [float(row["dice_aseg"]) for row in _most(rows, "patchmorph") if row["pair"] in pairs]
    return {"ours": fmean(ours)} if group["tool"] not in OURS and len(ours) == len(pairs) else {}


def compared(data: str, name: str) -> str:
    """`lines_of` a data set that was measured on one machine."""
    return lines_of(groups(data, name))


def lines_of(rows: list[Row]) -> str:
    """A line for each tool and device; columns that no tool has are left out."""
    has_parcels = any("dice_aseg" in row["mean"] for row in rows)
    columns = [
        column
        for column in COLUMNS
        if any(column[0] in row["mean"] for row in rows) and not (has_parcels and column[0] == "dice")
    ]
    lines = []
    for row in rows:
        figures = [show(row["mean"][key]) if key in row["mean"] else "-" for key, _, show in columns]
        count = f"{row['pairs']}, {row['failed']} failed" if row.get("failed") else str(row["pairs"])
        lines.append([NAMES[row["tool"]], row["device"].upper(), count, *figures])
    return table(("", "on", "pairs", *(heading for _, heading, _ in columns)), lines)


def commands() -> str:
    """What each tool of the table was called with."""
    shown = {row["tool"] for row in groups("t1-labelled")}
    texts = COMMANDS | {tool: _training(tool) for tool in TRAINED if tool in shown}
    lines = [f"- {NAMES[tool]}: {text}." for tool, text in texts.items() if tool in shown]
    return "\n".join([*lines, *([LONGER] if shown & TRAINED.keys() else [])])


def _training(tool: str) -> str:
    """What a tool whose model `full_volume.py` trained does, and how long that was."""
    file = machine.RESULTS / f"full-volume-{TRAINED[tool]}.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    by = "`patchmorph register FIXED MOVING -o DIR --model FILE`" if tool == "patches" else FULL_VOLUME
    pairs = "1 pair" if found["pairs_a_step"] == 1 else f"{found['pairs_a_step']} pairs"
    steps, planned = f"{found['steps']:,}", found["steps_planned"]
    if found["steps"] < planned:
        steps += f" of {planned:,} planned"
    return (
        f"{by}; trained for {found['minutes']:.1f} minutes on one {found['machine']['gpu']} with the "
        f"settings of `benchmarks/full_volume.py` ({steps} steps of {pairs}, {found['people']} people, no "
        "labels); "
        f"{found['parameters'] / 1e6:.1f} million parameters"
    )


def other_grids() -> str:
    """The same tools where the moving images lie on other grids, if that was measured."""
    if not groups("t1-labelled-grids"):
        return ""
    return f"""
The moving images on oblique grids of 0.9, 1.3 and 2.0 mm in another orientation (`--grids`):

{by_machine("t1-labelled-grids")}
"""


def structures() -> str:
    """What our Dice is above Greedy's on the pairs that both have, and in how many structures."""
    rows = [row for row in read_table(machine.RESULTS / "peers.csv") if row["set"] == "t1-labelled"]
    by_pair = {row["pair"]: row for row in _most(rows, "greedy")}
    lines = []
    for tool, device in sorted({(row["tool"], row["device"]) for row in rows if row["tool"] in OURS}):
        mine = [row for row in _most(rows, tool, device) if row["pair"] in by_pair]
        gains = [_gain(mine, by_pair, f"dice_{label}") for label in ASEG if mine]
        if gains:
            above = f"{sum(gain > 0 for gain in gains)} of {len(gains)}"
            ends = (f"{min(gains):+.3f}", f"{max(gains):+.3f}")
            means = [f"{_gain(mine, by_pair, group):+.3f}" for group in ("dice_aseg", "dice_cortex")]
            lines.append([NAMES[tool], device.upper(), str(len(mine)), *means, above, *ends])
    head = ("", "on", "pairs", "aseg", "cortex", "structures above", "least gain", "most gain")
    return table(head, lines)


def _most(rows: list[dict[str, str]], tool: str, device: str = "cpu") -> list[dict[str, str]]:
    """The scored rows of a tool from the machine where it registered most pairs."""
    found = [row for row in rows if (row["tool"], row["device"]) == (tool, device) and row["dice_2"]]
    counts = Counter(row["machine"] for row in found) or Counter({"": 0})
    return [row for row in found if row["machine"] == counts.most_common(1)[0][0]]


def _gain(mine: list[dict[str, str]], by_pair: dict[str, dict[str, str]], column: str) -> float:
    return fmean(float(row[column]) - float(by_pair[row["pair"]][column]) for row in mine)


def figure() -> Figure:
    """Dice of the subcortical structures against seconds, a panel for each machine on which tools compare."""
    timed = [row for row in groups("t1-labelled") if "seconds" in row["mean"]]
    panels = [name for name, count in Counter(row["machine"] for row in timed).items() if count > 1]
    drawn = Figure(figsize=(5 * len(panels), 4.2), layout="constrained")
    for axes, name in zip(drawn.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels, strict=True):
        for number, row in enumerate(row for row in timed if row["machine"] == name):
            where = (row["mean"]["seconds"], row["mean"]["dice_aseg"])
            is_ours, beside = row["tool"] in OURS, (5, -11 if number % 2 else 5)
            axes.plot(*where, "o" if is_ours else "s", color="tab:red" if is_ours else "tab:gray")
            axes.annotate(NAMES[row["tool"]], where, beside, textcoords="offset points", fontsize=8)
        axes.set_xscale("log")
        axes.margins(x=0.35, y=0.15)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("seconds a pair")
        axes.grid(alpha=0.3)
        axes.label_outer()
    drawn.axes[0].set_ylabel("aseg Dice")
    return drawn
