"""The HTML page of a registration: one file, no network."""

import base64
from typing import Any

from jinja2 import Environment, PackageLoader

from patchmorph.registration.result import Registration
from patchmorph.report import figures


def render_report(registration: Registration, summary: dict[str, Any]) -> str:
    """The page with both figures and the numbers of ``summary`` (as in ``summary.json``)."""
    environment = Environment(loader=PackageLoader("patchmorph.report"), autoescape=True)
    images = {
        "comparison": figures.png(figures.comparison(registration)),
        "deformation": figures.png(figures.deformation(registration)),
    }
    encoded = {name: base64.b64encode(image).decode() for name, image in images.items()}
    return environment.get_template("report.html.j2").render(
        images=encoded, summary=summary, rows=_rows(summary)
    )


def _rows(summary: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in summary.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict):
            rows += _rows(value, f"{name}: ")
        else:
            rows.append((name, f"{value:.4g}" if isinstance(value, float) else str(value)))
    return rows
