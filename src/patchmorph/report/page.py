"""The HTML page of a registration: one file, no network, made from the results folder."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from markupsafe import Markup

from patchmorph.io.atomic import whole_file
from patchmorph.report import figures
from patchmorph.report.drawing import DIVERGING, SEQUENTIAL
from patchmorph.report.embedding import asset, environment, hash_of, jpeg_url, json_block, niivue, policy
from patchmorph.report.figures import Panel
from patchmorph.report.layers import Layers, PairView
from patchmorph.report.loading import load_view
from patchmorph.report.numbers import Figure, affine_words, command, evidence_of, figures_of, map_figures
from patchmorph.report.packing import GRID_LINES, LOG_JACOBIAN_LIMIT, Packed, pack, uncertainty_limit
from patchmorph.report.verdicts import VERDICTS
from patchmorph.results.folder import REPORT
from patchmorph.results.summary import Summary
from patchmorph.workers import in_order

TEMPLATE = "report.html.j2"
SCRIPTS = ("viewer/data.js", "viewer/overlay.js", "viewer/viewer.js")
MODES = (
    ("swipe", "swipe"),
    ("flicker", "flicker"),
    ("checker", "checkerboard"),
    ("agreement", "agreement"),
    ("difference", "difference"),
    ("a", "A alone"),
    ("b", "B alone"),
)
FIGURES = ("comparison", "difference", "labels", "deformation", "uncertainty")
LAYERS = {
    "labels": "labels",
    "grid": "deformed grid",
    "jacobian": "log-Jacobian",
    "uncertainty": "uncertainty",
}
MONOTONE = "The moving image is shown in the fixed image's intensities, whose order is kept."
BY_MEANS = (
    "Each intensity of the moving image is shown as the fixed image's mean there, since the contrasts differ."
)


def write_report(folder: Path) -> Path:
    """Make the page of a results folder again; the images are read from where the summary says.

    Raises:
        PatchMorphError: no results folder, or images that have moved.
    """
    summary = Summary.load(folder)
    view = load_view(folder, summary)
    with whole_file(folder / REPORT) as temporary:
        write_page(temporary, view, summary)
    return folder / REPORT


def load_page() -> None:
    """Compile the template and load the viewer, which `write_page` then has at once."""
    environment().get_template(TEMPLATE)
    niivue()


def write_page(path: Path, view: PairView, summary: Summary) -> None:
    """Write the page of a registration."""
    path.write_text(render_report(render_content(view), summary), encoding="utf-8")


@dataclass(frozen=True)
class Picture:
    """A panel as the page shows it.

    Attributes:
        panel: what it shows.
        url: its JPEG file as an address.
    """

    panel: Panel
    url: Markup

    @property
    def width(self) -> int:
        """Pixels."""
        return self.panel.pixels.shape[1]

    @property
    def height(self) -> int:
        """Pixels."""
        return self.panel.pixels.shape[0]


@dataclass(frozen=True)
class Content:
    """What a page shows of the images and the map.

    Attributes:
        pictures: of each figure, by its name in the template.
        mosaics: of each image, as addresses.
        thumbnail: as an address.
        packed: the layers of the viewer.
        numbers: of the map.
        texts: what the template says about the figures.
    """

    pictures: dict[str, list[Picture]]
    mosaics: dict[str, Markup]
    thumbnail: Markup
    packed: Packed
    numbers: list[Figure]
    texts: dict[str, Any]


@torch.no_grad()  # with gradients, maps are computed in another way, which differs in the last digits
def render_content(view: PairView) -> Content:
    """All figures and layers of a registration."""
    layers = Layers(view)
    layers.complete()
    parts = [partial(pack, layers), partial(_mosaics, layers)]
    parts += [partial(_pictures, name, layers) for name in FIGURES]
    packed, mosaics, *pictures = in_order(lambda part: part(), parts)
    return Content(
        dict(zip(FIGURES, pictures, strict=True)),
        mosaics,
        jpeg_url(figures.thumbnail(layers)),
        packed,
        map_figures(layers),
        _texts(layers),
    )


def _pictures(name: str, layers: Layers) -> list[Picture]:
    """A figure, by its name."""
    return [Picture(panel, jpeg_url(panel.pixels)) for panel in getattr(figures, name)(layers)]


def _mosaics(layers: Layers) -> dict[str, Markup]:
    return {name: jpeg_url(pixels) for name, pixels in figures.mosaics(layers).items()}


def _texts(layers: Layers) -> dict[str, Any]:
    spacing_mm = float(layers.lattice.spacing_mm.min())
    percent = round(100 * figures.DIFFERENCE_LIMIT)
    texts = {
        "affine": affine_words(layers),
        "matching": MONOTONE if layers.matching.monotone else BY_MEANS,
        "grid_mm": f"{max(layers.lattice.shape) / GRID_LINES * spacing_mm:.2g}",
        "step_mm": f"{layers.map.step * spacing_mm:.2g}",
        "difference_ticks": [f"{share:+d} %" if share else "0" for share in (-percent, 0, percent)],
        "volumes": [_volume(step * LOG_JACOBIAN_LIMIT / 2) for step in range(-2, 3)],
        "table": " ".join(f"{value / 255:.3f}" for value in layers.matching.table.tolist()),
    }
    if layers.map.uncertainty is not None:
        limit = uncertainty_limit(layers)
        texts["uncertainty_ticks"] = [f"{limit * k / 2:.2g}" for k in range(3)]
    return texts


def render_report(content: Content, summary: Summary) -> str:
    """The page with figures and layers (see `render_content`) and the numbers of the summary."""
    script = "\n".join(asset(name) for name in SCRIPTS)
    widths = [picture.width for picture in content.pictures["comparison"][:3]]
    rules = "".join(
        f".planes figure:nth-child({k}) {{ flex: {width}; }}\n" for k, width in enumerate(widths, 1)
    )
    style, (library, library_hash) = asset("templates/style.css") + rules, niivue()
    scalars, labelled = content.packed.view["map"]["scalars"], bool(content.packed.view["labels"])
    there = {"labels": labelled, "grid": True, **dict.fromkeys(scalars, True)}
    mark, meaning = VERDICTS.get(summary.verdict, ("", ""))
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            csp=policy([hash_of(style)], [hash_of(script), library_hash]),
            style=Markup(style),
            script=Markup(script),
            niivue=Markup(library),
            view=json_block(content.packed.view),
            blocks={name: Markup(block) for name, block in content.packed.blocks.items()},
            images=content.packed.view["images"],
            modes=MODES,
            layers=[(name, title) for name, title in LAYERS.items() if there.get(name)],
            labelled=labelled,
            fixed=_name(summary.fixed),
            moving=_name(summary.moving),
            mark=mark,
            meaning=meaning,
            summary=summary,
            dice=summary.dice,
            figures=[*figures_of(summary, content.packed.view["monotone"]), *content.numbers],
            evidence=evidence_of(summary),
            command=command(summary),
            conditions=_conditions(summary),
            pictures=content.pictures,
            mosaics=content.mosaics,
            thumbnail=content.thumbnail,
            diverging=DIVERGING,
            sequential=SEQUENTIAL,
            **content.texts,
        )
    )


def _conditions(summary: Summary) -> list[tuple[str, str]]:
    """What the result depends on, and what it took."""
    memory = summary.peak_memory_gib
    seconds = {name: value for name, value in summary.seconds.items() if name != "write"}  # not known yet
    return [
        *((f"version of {name}", value) for name, value in summary.versions.items()),
        ("seed", str(summary.arguments.get("seed", 0))),
        ("device", summary.device),
        ("most memory", "not known" if memory is None else f"{memory:.2g} GiB"),
        *((f"seconds to {name}", f"{value:.1f}") for name, value in seconds.items()),
        *((name.replace("_", " "), path) for name, path in summary.files.items()),
    ]


def _name(path: str) -> str:
    """The file's name without its folders, of any system."""
    return PureWindowsPath(path).name or path


def _volume(log: float) -> str:
    """A ratio of volumes, from its logarithm to base 2, as the scale of colours shows it."""
    return f"{2**log:g}" if log >= 0 else f"1/{2**-log:g}"
