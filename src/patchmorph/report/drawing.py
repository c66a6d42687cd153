"""Drawing on planes ``[v, u, 3]`` of colours from 0 to 1: lines, outlines, values in colours."""

import numpy as np
from jaxtyping import Bool, Float, Int

Plane = Float[np.ndarray, "v u"]
Colours = Float[np.ndarray, "v u 3"]
Colour = tuple[float, float, float]
Scale = tuple[tuple[int, int, int], ...]
"""Colours in equal steps, of 255."""

DIVERGING: Scale = (
    (33, 102, 172),
    (103, 169, 207),
    (209, 229, 240),
    (247, 247, 247),
    (253, 219, 199),
    (239, 138, 98),
    (178, 24, 43),
)
"""Blue, white and red in equal steps, of 255, distinct without colour vision: RdBu of colorbrewer2.org."""
SEQUENTIAL: Scale = (
    (0, 34, 78),
    (53, 69, 108),
    (102, 105, 112),
    (148, 142, 119),
    (200, 184, 102),
    (254, 232, 56),
)
"""Blue to yellow in equal steps, of 255, alike without colour vision: cividis (Nuñez et al. 2018)."""

SMOOTHINGS = 2
"""Of a plane with the kernel 1 2 1, before edges are found."""
STEEP = 0.6
"""Quantile of the slopes above which they are edges."""


def grey(plane: Plane) -> Colours:
    """Intensities from 0 to 1 in shades of grey."""
    return np.repeat(plane[..., None].clip(0, 1), 3, axis=2)


def diverging(values: Plane, limit: float) -> Colours:
    """Values from -``limit`` (blue) to ``limit`` (red) in colours; zero is white."""
    place = np.linspace(-limit, limit, len(DIVERGING))
    return _in_colours(values, place, DIVERGING)


def sequential(values: Plane, limit: float) -> Colours:
    """Values from 0 (blue) to ``limit`` (yellow) in colours."""
    return _in_colours(values, np.linspace(0, limit, len(SEQUENTIAL)), SEQUENTIAL)


def _in_colours(values: Plane, place: Float[np.ndarray, " n"], colours: Scale) -> Colours:
    channels = [np.interp(values, place, channel) for channel in zip(*colours, strict=True)]
    return np.stack(channels, axis=-1) / 255


def blended(below: Colours, above: Colours, opacity: float | Plane) -> Colours:
    """``above`` over ``below``."""
    weight = np.asarray(opacity)[..., None]
    return (1 - weight) * below + weight * above


def with_lines(below: Colours, coordinate: Plane, step: float, colour: Colour, width: float) -> Colours:
    """``below`` with the lines on which a coordinate is a multiple of ``step``.

    The distance of a pixel to the nearest line is the difference to its multiple over the length of the
    gradient, so lines need not be traced.

    Args:
        below: what is drawn on.
        coordinate: per pixel.
        step: between two lines, in units of ``coordinate``.
        colour: of the lines.
        width: of the lines, in pixels.
    """
    slope = np.hypot(*np.gradient(coordinate)) / step
    away = np.abs(coordinate / step - np.round(coordinate / step)) / np.maximum(slope, 1e-6)
    return blended(below, np.broadcast_to(colour, below.shape), ((width + 1) / 2 - away).clip(0, 1))


def outlined(below: Colours, region: Bool[np.ndarray, "v u"], colour: Colour) -> Colours:
    """``below`` with the outermost pixels of a region in ``colour``."""
    around = np.pad(region, 1, mode="edge")
    inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return np.where((region & ~inside)[..., None], colour, below)


def bordered(below: Colours, labels: Int[np.ndarray, "v u"], colour: Colour) -> Colours:
    """``below`` with the pixels in ``colour`` whose right or lower neighbour has another label."""
    border = np.zeros(labels.shape, bool)
    border[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    border[:-1] |= labels[1:] != labels[:-1]
    return np.where(border[..., None], colour, below)


def edges(plane: Plane, region: Bool[np.ndarray, "v u"]) -> Bool[np.ndarray, "v u"]:
    """Where a smoothed plane changes most (Marr and Hildreth 1980): zeros of its Laplacian on steep slopes.

    Args:
        plane: intensities.
        region: the slopes of edges are above `STEEP` of those in here.
    """
    smooth = plane
    for _ in range(SMOOTHINGS):
        for axis in (0, 1):
            padded = np.pad(smooth, [(1, 1) if k == axis else (0, 0) for k in (0, 1)], mode="edge")
            before, after = (padded.take(range(start, start + smooth.shape[axis]), axis) for start in (0, 2))
            smooth = (before + 2 * smooth + after) / 4
    down, across = np.gradient(smooth)
    slope = np.hypot(down, across)
    bent = np.gradient(down, axis=0) + np.gradient(across, axis=1) > 0
    crossing = np.zeros(plane.shape, bool)
    crossing[:, :-1] |= bent[:, 1:] != bent[:, :-1]
    crossing[:-1] |= bent[1:] != bent[:-1]
    return crossing & (slope > (np.quantile(slope[region], STEEP) if region.any() else np.inf))
