"""Figures of a view, in the fixed image's world: what a reader checks first."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from numpy import ndarray

from patchmorph.images.abstract import AbstractImage
from patchmorph.images.foreground import find_content
from patchmorph.images.volume import Image
from patchmorph.patches.extraction import extract
from patchmorph.spatial.affine import from_linear
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.jacobian import jacobian_determinant

POINTS = 256
"""Samples along the longest side of a plane."""
GRID_LINES = 24
PLANES = (("sagittal", 0, "A", "S"), ("coronal", 1, "R", "S"), ("axial", 2, "R", "A"))
"""Name, world axis across the plane, and where its right and upper edges point."""


@dataclass(frozen=True)
class Plane:
    """One world-aligned plane through the middle of the content.

    Attributes:
        name: as in `PLANES`.
        normal: world axis across the plane.
        right: anatomical letter of the right edge.
        up: anatomical letter of the upper edge.
        grid: lattice of one voxel along ``normal``.
    """

    name: str
    normal: int
    right: str
    up: str
    grid: Grid

    def flat(self, volume: torch.Tensor) -> Float[ndarray, "u v"]:
        """A value per point of ``grid`` as a 2D array (right, up)."""
        return volume.squeeze(self.normal).float().cpu().numpy()

    def values(self, image: AbstractImage, transform: Transform | None = None) -> Float[ndarray, "u v"]:
        """Intensities of ``image``, seen through ``transform``, as a 2D array (right, up)."""
        return self.flat(extract(image, self.grid, float(self.grid.spacing_mm[0].min()), transform)[0, 0])


@dataclass(frozen=True)
class PairView:
    """What the figures show.

    Attributes:
        fixed: the fixed image.
        moving: the moving image.
        transform: fixed → moving world.
    """

    fixed: Image
    moving: Image
    transform: Transform


DrawPlane = Callable[[Axes, Plane], None]


def comparison(view: PairView) -> Figure:
    """Fixed (magenta) and moving image (green) over each other, before and after: grey is agreement."""
    fixed, moving = view.fixed.normalized(), view.moving.normalized()

    def overlay(transform: Transform) -> DrawPlane:
        def draw(axes: Axes, plane: Plane) -> None:
            a, b = plane.values(fixed), plane.values(moving, transform)
            axes.imshow(np.stack([a, b, a], axis=-1).transpose(1, 0, 2).clip(0, 1), origin="lower")

        return draw

    before = AffineTransform.identity(fixed.grid.device)
    rows = {"before, by the headers": overlay(before), "after": overlay(view.transform)}
    return _figure(view, rows)


def deformation(view: PairView) -> Figure:
    """The deformed grid (all but the affine part) and the logarithm of the Jacobian determinant."""
    fixed = view.fixed.normalized()

    def draw_grid(axes: Axes, plane: Plane) -> None:
        axes.imshow(plane.values(fixed).T, cmap="gray", origin="lower")
        _draw_lines(axes, plane, view.transform)

    def draw_jacobian(axes: Axes, plane: Plane) -> None:
        axes.imshow(plane.values(fixed).T, cmap="gray", origin="lower")
        determinant = plane.flat(jacobian_determinant(view.transform, plane.grid)).T
        log = np.log2(determinant.clip(min=2.0**-4))
        axes.imshow(log, cmap="RdBu_r", norm=TwoSlopeNorm(0, -2, 2), alpha=0.75, origin="lower")
        if (determinant <= 0).any():
            axes.contour(determinant <= 0, levels=[0.5], colors="yellow", linewidths=0.8)

    return _figure(view, {"deformed grid": draw_grid, "log₂ Jacobian": draw_jacobian})


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _figure(view: PairView, rows: dict[str, DrawPlane]) -> Figure:
    planes = _planes(view)
    figure = Figure(figsize=(11, 7.6), facecolor="black")
    widths = [plane.flat(torch.zeros(plane.grid.shape)).shape[0] for plane in planes]
    grid = figure.subplots(len(rows), len(planes), squeeze=False, width_ratios=widths)
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.955, wspace=0.01, hspace=0.09)
    for (title, draw), row in zip(rows.items(), grid, strict=True):
        for plane, axes in zip(planes, row, strict=True):
            draw(axes, plane)
            axes.set_title(f"{plane.name}, {title}", color="white", fontsize=10)
            axes.text(0.99, 0.5, plane.right, color="white", transform=axes.transAxes, ha="right")
            axes.text(0.5, 0.99, plane.up, color="white", transform=axes.transAxes, va="top")
            axes.set_axis_off()
    return figure


def _planes(view: PairView) -> list[Plane]:
    content = find_content(view.fixed.normalized())
    lower, upper = content.box_world
    spacing = float((upper - lower).max()) / POINTS
    planes = []
    for name, normal, right, up in PLANES:
        shape = [max(2, round(float(length) / spacing)) for length in upper - lower]
        shape[normal] = 1
        origin = lower.clone()
        origin[normal] = content.center_world[0, normal]
        linear = torch.eye(3, dtype=torch.float64, device=lower.device) * spacing
        grid = Grid((shape[0], shape[1], shape[2]), from_linear(linear[None], origin[None]))
        planes.append(Plane(name, normal, right, up, grid))
    return planes


def _draw_lines(axes: Axes, plane: Plane, transform: Transform) -> None:
    """Lines of constant coordinates, moved by the part of ``transform`` that is not affine."""
    points = plane.grid.points_world()
    displacement = transform.affine_part().remainder(points, transform(points))
    voxel = plane.grid.to_voxel(points + displacement)
    for axis in (k for k in range(3) if k != plane.normal):
        coordinate = plane.flat(voxel[0, ..., axis])
        levels = np.arange(0, max(plane.grid.shape), max(plane.grid.shape) / GRID_LINES)
        axes.contour(coordinate.T, levels=levels, colors="#ffd24d", linewidths=0.6)
