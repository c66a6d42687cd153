"""Drawing on planes ``[v, u, 3]`` of colours from 0 to 1: lines, outlines, values in colours."""

import numpy as np
from jaxtyping import Bool, Float

Plane = Float[np.ndarray, "v u"]
Colours = Float[np.ndarray, "v u 3"]
Colour = tuple[float, float, float]

DIVERGING: tuple[Colour, ...] = (
    (33, 102, 172),
    (103, 169, 207),
    (209, 229, 240),
    (247, 247, 247),
    (253, 219, 199),
    (239, 138, 98),
    (178, 24, 43),
)
"""Blue, white and red in equal steps, of 255, distinct without colour vision: RdBu of colorbrewer2.org."""


def grey(plane: Plane) -> Colours:
    """Intensities from 0 to 1 in shades of grey."""
    return np.repeat(plane[..., None].clip(0, 1), 3, axis=2)


def diverging(values: Plane, limit: float) -> Colours:
    """Values from -``limit`` (blue) to ``limit`` (red) in colours; zero is white."""
    place = np.linspace(-limit, limit, len(DIVERGING))
    channels = [np.interp(values, place, channel) for channel in zip(*DIVERGING, strict=True)]
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
