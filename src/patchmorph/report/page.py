"""The HTML page of a registration: one file, no network, made from the results folder."""

import base64
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader

from patchmorph.errors import PatchMorphError
from patchmorph.images.planes import png
from patchmorph.io.atomic import whole_file
from patchmorph.io.formats.registry import is_image
from patchmorph.io.images import load_image
from patchmorph.io.stated import stated_of
from patchmorph.io.transforms.formats import load_transform
from patchmorph.report import figures
from patchmorph.report.drawing import DIVERGING
from patchmorph.report.figures import LOG_JACOBIAN_LIMIT, PairView, Panel
from patchmorph.results.folder import REPORT, TRANSFORM
from patchmorph.results.summary import Summary


def write_report(folder: Path) -> Path:
    """Make the page of a results folder again; the images are read from where the summary says.

    Raises:
        PatchMorphError: no results folder, or images that have moved.
    """
    summary = Summary.load(folder)
    paths = {}
    for side in ("fixed", "moving"):
        paths[side] = folder / summary.files.get(side, "")
        if not is_image(paths[side]):
            raise PatchMorphError(
                f"{side} image must be where the summary says, got nothing at {paths[side]} (of {folder})"
            )
    background = summary.arguments.get("background")
    stated = {side: stated_of(summary.arguments, side) for side in paths}
    images = {side: load_image(paths[side], stated[side]).with_background(background) for side in paths}
    view = PairView(images["fixed"], images["moving"], load_transform(folder / TRANSFORM))
    with whole_file(folder / REPORT) as temporary:
        temporary.write_text(render_report(render_pictures(view), summary), encoding="utf-8")
    return folder / REPORT


@dataclass(frozen=True)
class Picture:
    """A panel as the page shows it.

    Attributes:
        panel: what it shows.
        data: its PNG file in base64.
    """

    panel: Panel
    data: str

    @property
    def width(self) -> int:
        """Pixels."""
        return self.panel.pixels.shape[1]


Pictures = dict[str, list[Picture]]
"""The pictures of each figure, by its name in the template."""


@torch.no_grad()  # with gradients, maps are computed in another way, which differs in the last digits
def render_pictures(view: PairView) -> Pictures:
    """All figures as PNG files in base64."""
    drawn = {"comparison": figures.comparison(view), "deformation": figures.deformation(view)}
    return {
        name: [Picture(panel, base64.b64encode(png(panel.pixels)).decode()) for panel in panels]
        for name, panels in drawn.items()
    }


def render_report(pictures: Pictures, summary: Summary) -> str:
    """The page with the pictures (see `render_pictures`) and the numbers of the summary."""
    environment = Environment(loader=PackageLoader("patchmorph.report"), autoescape=True)
    content = asdict(summary)
    content["seconds"].pop("write", None)  # not known yet when a registration renders its page
    dice = content.pop("dice")
    return environment.get_template("report.html.j2").render(
        pictures=pictures,
        colours=[f"rgb{colour}" for colour in DIVERGING],
        volumes=[_volume(step * LOG_JACOBIAN_LIMIT / 2) for step in range(-2, 3)],
        summary=content,
        rows=_rows(content),
        dice=dice,
    )


def _volume(log: float) -> str:
    """A ratio of volumes, from its logarithm to base 2, as the scale of colours shows it."""
    return f"{2**log:g}" if log >= 0 else f"1/{2**-log:g}"


def _rows(summary: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in summary.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            rows += _rows(value, f"{name}: ")
        else:
            rows.append((name, f"{value:.4g}" if isinstance(value, float) else str(value)))
    return rows
