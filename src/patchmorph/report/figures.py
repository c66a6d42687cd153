"""Figures of a view, in the fixed image's world: what a reader checks first."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from patchmorph.images.abstract import AbstractImage
from patchmorph.images.chunked import StoredImage
from patchmorph.images.foreground import find_content
from patchmorph.images.planes import as_bytes, flat, plane_grids
from patchmorph.patches.extraction import extract
from patchmorph.report.drawing import blended, diverging, grey, outlined, with_lines
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.jacobian import jacobian_determinant

POINTS = 320
"""Samples along the longest side of a plane."""
GRID_LINES = 24
"""Of the deformed grid, along the longest side."""
LINE_COLOUR, LINE_WIDTH = (1.0, 0.82, 0.3), 1.0
FOLD_COLOUR = (1.0, 1.0, 0.0)
LOG_JACOBIAN_LIMIT = 2.0
"""Logarithm to base 2 of the Jacobian determinant that has the deepest colour: four times the volume."""
OPACITY = 0.75
"""Of the Jacobian over the fixed image."""
PLANES = (("sagittal", "A", "S"), ("coronal", "R", "S"), ("axial", "R", "A"))
"""Names, by the world axis across the plane, and where the right and upper edges point."""


@dataclass(frozen=True)
class Plane:
    """One world-aligned plane through the middle of the content.

    Attributes:
        normal: world axis across the plane.
        grid: lattice of one point along ``normal``.
    """

    normal: int
    grid: Grid

    def values(self, image: AbstractImage, transform: Transform | None = None) -> Float[ndarray, "v u"]:
        """Intensities of ``image``, seen through ``transform``."""
        return flat(
            extract(image, self.grid, float(self.grid.spacing_mm.min()), transform)[0, 0], self.normal
        )


@dataclass(frozen=True)
class PairView:
    """What the figures show.

    Attributes:
        fixed: the fixed image.
        moving: the moving image.
        transform: fixed → moving world.
    """

    fixed: StoredImage
    moving: StoredImage
    transform: Transform


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


Draw = Callable[[Plane], Float[ndarray, "v u 3"]]


def comparison(view: PairView) -> list[Panel]:
    """Fixed (magenta) and moving image (green) over each other, before and after: grey is agreement."""
    fixed, moving = view.fixed.normalized(), view.moving.normalized()

    def overlay(transform: Transform) -> Draw:
        def draw(plane: Plane) -> Float[ndarray, "v u 3"]:
            a, b = plane.values(fixed), plane.values(moving, transform)
            return np.stack([a, b, a], axis=-1)

        return draw

    before = AffineTransform.identity(fixed.grid.device)
    return _panels(view, {"before, by the headers": overlay(before), "after": overlay(view.transform)})


def deformation(view: PairView) -> list[Panel]:
    """The deformed grid (all but the affine part) and the logarithm of the Jacobian determinant."""
    fixed = view.fixed.normalized()

    def draw_grid(plane: Plane) -> Float[ndarray, "v u 3"]:
        return _with_grid(grey(plane.values(fixed)), plane, view.transform)

    def draw_jacobian(plane: Plane) -> Float[ndarray, "v u 3"]:
        determinant = flat(jacobian_determinant(view.transform, plane.grid), plane.normal)
        log = np.log2(determinant.clip(min=2.0**-LOG_JACOBIAN_LIMIT))
        colours = diverging(log, LOG_JACOBIAN_LIMIT)
        return outlined(blended(grey(plane.values(fixed)), colours, OPACITY), determinant <= 0, FOLD_COLOUR)

    return _panels(view, {"deformed grid": draw_grid, "Jacobian determinant": draw_jacobian})


def _panels(view: PairView, rows: dict[str, Draw]) -> list[Panel]:
    content = find_content(view.fixed.normalized())
    grids = plane_grids(content.box_world, content.center_world[0], POINTS)
    return [
        Panel(f"{name}, {shown}", right, up, as_bytes(draw(Plane(normal, grids[normal]))))
        for shown, draw in rows.items()
        for normal, (name, right, up) in enumerate(PLANES)
    ]


def _with_grid(
    pixels: Float[ndarray, "v u 3"], plane: Plane, transform: Transform
) -> Float[ndarray, "v u 3"]:
    """Lines of constant coordinates, moved by the part of ``transform`` that is not affine."""
    points = plane.grid.points_world()
    displacement = transform.affine_part().remainder(points, transform(points))
    voxel = plane.grid.to_voxel(points + displacement)[0]
    for axis in (k for k in range(3) if k != plane.normal):
        coordinate = flat(voxel[..., axis], plane.normal)
        pixels = with_lines(pixels, coordinate, POINTS / GRID_LINES, LINE_COLOUR, LINE_WIDTH)
    return pixels
