"""A registration in a notebook: its verdict, and three planes of the fixed, the warped and both images."""

import base64
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from patchmorph.images.planes import box_around, plane_grids, png, sampled_planes, side_by_side

if TYPE_CHECKING:
    from patchmorph.registration.result import Registration

ROWS = "Rows: fixed, warped, and both (fixed magenta, warped green; grey where they agree)."


def summary_html(registration: "Registration") -> str:
    """HTML with the names, the verdict and its reasons, and a picture that needs no other file."""
    verdict = registration.verdict
    lines = [
        f"<b>{escape(registration.moving.name)}</b> → <b>{escape(registration.fixed.name)}</b>",
        f"verdict: <b>{escape(verdict.level)}</b>",
        *map(escape, verdict.reasons),
        ROWS,
    ]
    picture = base64.b64encode(planes_png(registration)).decode()
    return f'{"<br>".join(lines)}<br><img alt="planes" src="data:image/png;base64,{picture}">'


def planes_png(registration: "Registration") -> bytes:
    """A PNG file of three planes of the fixed, the warped and both images, through the fixed content."""
    pair = registration.pair
    box, device = box_around(registration.fixed.grid), registration.fixed.grid.device
    grids = plane_grids(box, pair.fixed.content.center_world[0], device=device)
    fixed = sampled_planes(registration.fixed.normalized(), grids)
    warped = sampled_planes(registration.moving.normalized(), grids, registration.transform)
    both = [np.stack([a, b, a], axis=-1) for a, b in zip(fixed, warped, strict=True)]
    return png(side_by_side([fixed, warped, both]))
