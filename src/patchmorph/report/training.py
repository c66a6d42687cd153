"""The HTML page of a training: curves, validation, patches, memory and rate, made from its folder."""

import math
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from markupsafe import Markup

from patchmorph.io.atomic import whole_file
from patchmorph.report.embedding import asset, environment, hash_of, policy
from patchmorph.report.examples import example_patches
from patchmorph.report.plots import line_plot
from patchmorph.results.folder import REPORT
from patchmorph.training.history import History, Series, read_history

VALIDATION = "validation/"
RATE, MEMORY, LOSS = "steps_per_second", "memory_gib", "loss"
TITLES = {
    LOSS: "Loss",
    "error_mm": "Error where the true map is known (mm)",
    "learning_rate": "Learning rate",
    "gradient_norm": "Norm of the gradient before clipping",
    RATE: "Steps per second",
    MEMORY: "Memory reserved on the GPU (GiB)",
}
LAST = ("learning_rate", "gradient_norm", RATE, MEMORY)
"""Names that follow all others."""


def write_training_report(folder: Path) -> Path:
    """Write the page of a training, which may still run.

    Raises:
        PatchMorphError: a log or a configuration that cannot be used, or a page that cannot be written.
    """
    history = read_history(folder)
    with whole_file(folder / REPORT) as temporary:
        temporary.write_text(render_training(history, folder.absolute().name), encoding="utf-8")
    return folder / REPORT


def render_training(history: History, title: str) -> str:
    """The page."""
    style, config = asset("templates/style.css"), history.config
    examples, missing = example_patches(config)
    return (
        environment()
        .get_template("training.html.j2")
        .render(
            csp=policy([hash_of(style)], []),
            style=Markup(style),
            title=title,
            step=history.step,
            steps=config.optimization.steps,
            figures=list(_figures(history)),
            curves=[(name, line_plot(lines, ("step", name))) for name, lines in _curves(history)],
            examples=examples,
            missing=missing,
            config=config.model_dump_json(indent=2, exclude={"folder"}),
        )
    )


def _figures(history: History) -> Iterator[tuple[str, str]]:
    """What stands on top of the page."""
    found, config = history.series, history.config
    spacings = ", ".join(f"{spacing:g}" for spacing in config.model.spacings_mm)
    yield "networks", ", ".join(dict.fromkeys(network.name for network in config.model.networks))
    yield "patches", f"{config.model.patch_size}³ voxels of {spacings} mm"
    if LOSS in found:
        yield "loss", f"{found[LOSS].values[-1]:.4g} (first {found[LOSS].values[0]:.4g})"
    for name, series in found.items():
        if name.startswith(VALIDATION):
            yield _title(name), _validated(name, series)
    if RATE in found:
        rate = median(found[RATE].values)
        left = (config.optimization.steps - history.step) / rate if rate else math.nan
        remaining = f", {left / 3600:.2g} hours to the last step" if left > 0 else ""
        yield "steps per second", f"{rate:.4g} (median{remaining})"
    if memory := max(found[MEMORY].values, default=0.0) if MEMORY in found else 0.0:
        yield "most memory reserved on the GPU", f"{memory:.3g} GiB"


def _validated(name: str, series: Series) -> str:
    """The last value, and the best one of an overlap."""
    if "dice" not in name:
        return f"{series.values[-1]:.4g}"
    best = max(series.values)
    return f"{series.values[-1]:.4g} (best {best:.4g}, step {series.steps[series.values.index(best)]})"


def _curves(history: History) -> Iterator[tuple[str, dict[str, tuple[list[float], list[float]]]]]:
    """Titles, and lines of the figures that share a plot: those of all scales, and the overlaps."""
    plots: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for name, series in history.series.items():
        title, line = _place(name)
        plots.setdefault(title, {})[line] = ([float(step) for step in series.steps], list(series.values))
    last = [TITLES[name] for name in LAST]
    order = [title for title in plots if title not in last] + [title for title in last if title in plots]
    for title in sorted(order, key=lambda title: (title != TITLES[LOSS], not title.startswith("Validation"))):
        yield title, plots[title]


def _place(name: str) -> tuple[str, str]:
    """The title of a figure's plot, and the name of its line there."""
    if name.startswith(VALIDATION):
        return ("Validation: Dice", name) if "dice" in name else (_title(name), "")
    figure, _, scale = name.partition("/")
    return TITLES.get(figure, figure.replace("_", " ").capitalize()), f"scale {scale}" if scale else ""


def _title(name: str) -> str:
    return f"Validation: {name.removeprefix(VALIDATION).replace('_', ' ')}"
