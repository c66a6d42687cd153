"""Static figures of a registration: what a reader checks first, also in mail and on paper."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from numpy import ndarray

from patchmorph.images.planes import as_bytes
from patchmorph.report.drawing import (
    Colour,
    blended,
    bordered,
    diverging,
    edges,
    grey,
    outlined,
    sequential,
    with_lines,
)
from patchmorph.report.layers import AFFINE, BEFORE, FIXED, WARPED, Layers
from patchmorph.report.packing import GRID_LINES, LOG_JACOBIAN_LIMIT, uncertainty_limit
from patchmorph.report.slices import Slice, middle_slices, spread_slices

COLUMNS = 7
"""Planes of each direction in a mosaic."""
GAP = 4
"""Dark pixels between planes of a mosaic."""
LINE_COLOUR, LINE_WIDTH = (1.0, 0.82, 0.3), 1.0
EDGE_COLOUR = np.array((255, 176, 0), np.uint8)
FOLD_COLOUR = (1.0, 1.0, 0.0)
LABEL_COLOURS: dict[str, Colour] = {FIXED: (0.34, 0.71, 0.91), WARPED: (0.9, 0.62, 0.0)}
"""Sky blue and orange of Okabe and Ito, distinct without colour vision."""
DIFFERENCE_LIMIT = 0.5
"""Part of the fixed image's range of intensities that has the deepest colour."""
OPACITY = 0.75
"""Of colours over the fixed image."""
PLANES = (("sagittal", "A", "S"), ("coronal", "R", "S"), ("axial", "R", "A"))
"""Names, by the axis across the plane, and where the right and upper edges point."""
STAGES = {BEFORE: "before, by the headers", AFFINE: "affine part only", WARPED: "after"}

Draw = Callable[[Slice], Float[ndarray, "v u 3"]]


@dataclass(frozen=True)
class Panel:
    """A picture of one plane.

    Attributes:
        title: the plane and what it shows.
        right: anatomical letter of the right edge.
        up: anatomical letter of the upper edge.
        pixels: ``[v, u, 3]``; the first row is the upper edge.
    """

    title: str
    right: str
    up: str
    pixels: UInt8[ndarray, "v u 3"]


def comparison(layers: Layers) -> list[Panel]:
    """Fixed (magenta) and matched moving image (green) over each other, stage by stage: grey is agreement."""

    def overlay(name: str) -> Draw:
        def draw(cut: Slice) -> Float[ndarray, "v u 3"]:
            fixed = cut.image(FIXED)
            return np.stack([fixed, cut.matched(name), fixed], axis=-1)

        return draw

    return _panels(layers, {title: overlay(name) for name, title in STAGES.items()})


def difference(layers: Layers) -> list[Panel]:
    """Matched warped minus fixed image: white is agreement, only where the fixed image shows something."""

    def draw(cut: Slice) -> Float[ndarray, "v u 3"]:
        values = cut.matched(WARPED) - cut.image(FIXED)
        return blended(grey(0 * values), diverging(values, DIFFERENCE_LIMIT), cut.content().astype(float))

    return _panels(layers, {"difference": draw})


def deformation(layers: Layers) -> list[Panel]:
    """The deformed grid (all but the affine part) and the logarithm of the Jacobian determinant."""
    step = max(layers.lattice.shape) / GRID_LINES

    def draw_grid(cut: Slice) -> Float[ndarray, "v u 3"]:
        pixels = grey(cut.image(FIXED))
        for coordinate in cut.coordinates():
            pixels = with_lines(pixels, coordinate, step, LINE_COLOUR, LINE_WIDTH)
        return pixels

    def draw_jacobian(cut: Slice) -> Float[ndarray, "v u 3"]:
        colours = diverging(cut.of_map(layers.map.log_jacobian), LOG_JACOBIAN_LIMIT)
        folds = cut.of_map(layers.map.folds.astype(np.float32)) > 0.5
        coloured = _in_content(cut, colours)
        return np.where(cut.content()[..., None], outlined(coloured, folds, FOLD_COLOUR), coloured)

    return _panels(layers, {"deformed grid": draw_grid, "Jacobian determinant": draw_jacobian})


def uncertainty(layers: Layers) -> list[Panel]:
    """Standard deviation of the map in mm; nothing where it was not asked for."""
    values = layers.map.uncertainty
    if values is None:
        return []
    limit = uncertainty_limit(layers)

    def draw(cut: Slice) -> Float[ndarray, "v u 3"]:
        return _in_content(cut, sequential(cut.of_map(values), limit))

    return _panels(layers, {"uncertainty": draw})


def labels(layers: Layers) -> list[Panel]:
    """Borders of the labels of the fixed image (blue) and of the warped ones (orange) on the warped image."""
    if not layers.labels:
        return []

    def draw(cut: Slice) -> Float[ndarray, "v u 3"]:
        pixels = grey(cut.image(WARPED))
        for name, values in layers.labels.items():
            pixels = bordered(pixels, cut.cut(values), LABEL_COLOURS[name])
        return pixels

    return _panels(layers, {"labels": draw})


def mosaics(layers: Layers) -> dict[str, UInt8[ndarray, "v u 3"]]:
    """Planes throughout the fixed and the warped image, each with the edges of the fixed one."""
    rows = spread_slices(layers, COLUMNS)
    fixed, warped, content = (
        _mosaic([[cut.cut(values) for cut in row] for row in rows])
        for values in (layers.images[FIXED].values, layers.images[WARPED].values, layers.content)
    )
    found = edges(fixed.astype(np.float32), content)[..., None]
    return {
        name: np.where(found, EDGE_COLOUR, image[..., None])
        for name, image in ((FIXED, fixed), (WARPED, warped))
    }


def thumbnail(layers: Layers) -> UInt8[ndarray, "v u 3"]:
    """The warped image with the edges of the fixed one, in the axial plane through the middle."""
    cut = Slice(layers, 2, middle_slices(layers)[2].at)
    found = edges(cut.image(FIXED), cut.content())[..., None]
    return np.where(found, EDGE_COLOUR, as_bytes(grey(cut.image(WARPED))))


def _in_content(cut: Slice, colours: Float[ndarray, "v u 3"]) -> Float[ndarray, "v u 3"]:
    return blended(grey(cut.image(FIXED)), colours, OPACITY * cut.content())


def _panels(layers: Layers, rows: dict[str, Draw]) -> list[Panel]:
    return [
        Panel(f"{name}, {shown}", right, up, as_bytes(draw(cut)))
        for shown, draw in rows.items()
        for cut, (name, right, up) in zip(middle_slices(layers), PLANES, strict=True)
    ]


def _mosaic(rows: Sequence[Sequence[Shaped[ndarray, "_ _"]]]) -> Shaped[ndarray, "v u"]:
    """Rows of planes, each in the middle of its row."""
    lines = [np.concatenate([np.pad(cell, ((GAP, 0), (GAP, 0))) for cell in row], axis=1) for row in rows]
    width = max(line.shape[1] for line in lines)
    lefts = [(width - line.shape[1]) // 2 for line in lines]
    padded = [
        np.pad(line, ((0, 0), (left, width - line.shape[1] - left)))
        for line, left in zip(lines, lefts, strict=True)
    ]
    return np.concatenate(padded, axis=0)
