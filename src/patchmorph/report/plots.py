"""Plots as SVG within a page: told apart by shapes and patterns first, by colours second."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from patchmorph.report.embedding import visible

WIDTH, MARGIN, LABELS = 760.0, 14.0, 120.0
BOX, GAP = 14.0, 10.0
"""Height of a box and the space between structures."""
KINDS = 6
"""Patterns and shapes, which are repeated beyond."""
FEW = 5
"""Values from which on a box is drawn instead of points alone."""
TICKS = 5
MAX_POINTS = 400
"""Points of a line that are drawn."""
LINE_HEIGHT = 12.0
DASHES = ("none", "6 3", "2 2", "8 3 2 3", "12 4", "4 4 1 4")


@dataclass(frozen=True)
class Axis:
    """Where values lie between two ends of a plot, linear or logarithmic.

    Attributes:
        low: smallest value.
        high: largest value.
        start: its place, that of the smallest.
        end: that of the largest.
        logarithmic: whether ratios are equal distances.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float, logarithmic: bool = False) -> "Axis":
        """An axis with a little room beyond the ``values``."""
        low, high = min(values), max(values)
        if logarithmic:
            return cls(low / 1.3, high * 1.3, start, end, True)
        room = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
        return cls(low - room, high + room, start, end)

    def place(self, value: float) -> float:
        """Where a value lies."""
        low, high, value = (math.log(x) if self.logarithmic else x for x in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values between the ends."""
        if self.logarithmic:
            exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = [digit * 10.0**exponent for exponent in exponents for digit in (1, 2, 5)]
            return [step for step in steps if self.low <= step <= self.high]
        rough = (self.high - self.low) / TICKS
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * digit for digit in (1, 2, 5, 10) if unit * digit >= rough)
        count = range(math.ceil(self.low / step), math.floor(self.high / step) + 1)
        return [step * k for k in count]


def box_plot(groups: Mapping[str, Mapping[str, Sequence[float]]], tools: Sequence[str], title: str) -> Markup:
    """Boxes of each tool for each group, one below the other.

    A box spans the quartiles and has a line at the median; whiskers reach the farthest value within 1.5 times
    its width (Tukey, 1977), values beyond are points. Fewer than `FEW` values are points alone.

    Args:
        groups: values by tool, by the name of the group.
        tools: in the order of the boxes.
        title: for those who do not see it.
    """
    every = [value for group in groups.values() for values in group.values() for value in values]
    axis = Axis.around(every, LABELS, WIDTH - MARGIN)
    block = BOX * len(tools) + GAP
    height = block * len(groups) + 2 * MARGIN
    parts = [_grid(axis, MARGIN, height - MARGIN)]
    parts += [_text(axis.place(tick), MARGIN - 3, f"{tick:g}", "middle") for tick in axis.ticks()]
    for k, (name, group) in enumerate(groups.items()):
        top = MARGIN + GAP / 2 + k * block
        parts.append(_text(LABELS - 8, top + BOX * len(tools) / 2 + 4, name, "end"))
        for j, tool in enumerate(tools):
            parts.append(_box(group.get(tool, ()), axis, top + j * BOX, j))
    return _svg(Markup("").join(parts), height, title)


def scatter_plot(
    points: Mapping[str, Sequence[tuple[float, float]]],
    means: Mapping[str, tuple[float, float]],
    names: tuple[str, str],
    title: str,
) -> Markup:
    """Points of each tool and their mean, over a logarithmic axis.

    Args:
        points: (x above 0, y) of each pair, by tool.
        means: the same of the mean.
        names: of both axes.
        title: for those who do not see it.
    """
    height = 300.0
    every = [point for found in points.values() for point in found]
    across = Axis.around([x for x, _ in every], LABELS / 2, WIDTH - LABELS, logarithmic=True)
    up = Axis.around([y for _, y in every], height - 3 * MARGIN, MARGIN)
    parts = [_grid(across, MARGIN, height - 3 * MARGIN)]
    parts += [_text(LABELS / 2 - 6, up.place(y) + 4, f"{y:g}", "end") for y in up.ticks()]
    parts.append(_text((across.start + across.end) / 2, height - 4, names[0], "middle"))
    parts.append(_text(4.0, 10.0, names[1]))
    for k, (tool, found) in enumerate(points.items()):
        parts += [_mark(across.place(x), up.place(y), k, 2.2) for x, y in found]
        x, y = (axis.place(value) for axis, value in zip((across, up), means[tool], strict=True))
        parts += [_mark(x, y, k, 6.0), _text(x + 10, y + 4, tool)]
    return _svg(Markup("").join(parts), height, title)


def line_plot(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], names: tuple[str, str]) -> Markup:
    """Lines over a common axis, each named at its end.

    Args:
        lines: x and y of the points of each line, at most `MAX_POINTS` of which are drawn, as means.
        names: of both axes.
    """
    height = 220.0
    drawn = {name: _thinned(*points) for name, points in lines.items()}
    across = Axis.around([x for xs, _ in drawn.values() for x in xs], LABELS / 2, WIDTH - LABELS)
    up = Axis.around([y for _, ys in drawn.values() for y in ys], height - 3 * MARGIN, MARGIN)
    parts = [_grid(across, MARGIN, height - 3 * MARGIN)]
    parts += [_text(LABELS / 2 - 6, up.place(y) + 4, f"{y:g}", "end") for y in up.ticks()]
    parts.append(_text((across.start + across.end) / 2, height - 4, names[0], "middle"))
    ends = []
    for k, (name, (xs, ys)) in enumerate(drawn.items()):
        places = [f"{across.place(x):.1f} {up.place(y):.1f}" for x, y in zip(xs, ys, strict=True)]
        line = _element("path", d="M" + "L".join(places), **{"stroke-dasharray": DASHES[k % KINDS]})
        marks = [_mark(across.place(x), up.place(y), k, 2.5) for x, y in zip(xs, ys, strict=True)]
        parts.append(_element("g", line, **{"class": f"tool tool-{k % KINDS}"}))
        parts += marks if len(marks) <= FEW else marks[-1:]
        ends.append((up.place(ys[-1]), name))
    for y, (_, name) in zip(_apart([y for y, _ in sorted(ends)]), sorted(ends), strict=True):
        parts.append(_text(across.end + 8, y + 4, name))
    return _svg(Markup("").join(parts), height, f"{names[1]} over {names[0]}")


def _thinned(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    """Points in order, or means of neighbours where there are too many."""
    size = math.ceil(len(xs) / MAX_POINTS)
    starts = range(0, len(xs), size)
    return (
        [float(np.mean(xs[start : start + size])) for start in starts],
        [float(np.mean(ys[start : start + size])) for start in starts],
    )


def _apart(places: Sequence[float]) -> list[float]:
    """Sorted places of lines of text, moved down where they would lie over each other."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + LINE_HEIGHT) if moved else place)
    return moved


def swatch(k: int) -> Markup:
    """The pattern and the shape of a tool, for a legend."""
    inside = _box([0.0, 1.0, 2.0, 3.0, 4.0], Axis(0.0, 4.0, 2.0, 30.0), 2.0, k) + _mark(40.0, 7.0, k, 4.0)
    return _element("svg", inside, viewBox="0 0 48 14", width=48, height=14, **{"aria-hidden": "true"})


def patterns() -> Markup:
    """Definitions that the boxes of all plots of a page refer to."""
    lines = {
        1: ("M0 6 6 0", 6),
        2: ("M0 2H4", 4),
        3: ("M2 0V4", 4),
        4: ("M0 0 6 6M0 6 6 0", 6),
    }
    found = [
        _element(
            "pattern",
            _element("path", d=path, stroke="currentColor", **{"class": f"tool-{k}"}),
            id=f"pattern-{k}",
            width=size,
            height=size,
            patternUnits="userSpaceOnUse",
        )
        for k, (path, size) in lines.items()
    ]
    return _element(
        "svg", _element("defs", Markup("").join(found)), **{"class": "hidden", "aria-hidden": "true"}
    )


def _grid(axis: Axis, top: float, bottom: float) -> Markup:
    lines = [
        _element("path", d=f"M{axis.place(tick):.1f} {top}V{bottom}", **{"class": "rule"})
        + _text(axis.place(tick), bottom + 11, f"{tick:g}", "middle")
        for tick in axis.ticks()
    ]
    return Markup("").join(lines)


def _box(values: Sequence[float], axis: Axis, top: float, kind: int) -> Markup:
    kind, middle, bottom = kind % KINDS, top + BOX / 2, top + BOX - 2
    if len(values) < FEW:
        return Markup("").join(_mark(axis.place(value), middle, kind, 3.0) for value in values)
    low, median, high = np.percentile(values, (25, 50, 75)).tolist()
    within = [value for value in values if abs(value - (low + high) / 2) <= 2 * (high - low)]
    ends = [axis.place(x) for x in (min(within, default=low), low, median, high, max(within, default=high))]
    fill = {0: "currentColor", KINDS - 1: "none"}.get(kind, f"url(#pattern-{kind})")
    parts = [
        _element("path", d=f"M{ends[0]:.1f} {middle}H{ends[1]:.1f}M{ends[3]:.1f} {middle}H{ends[4]:.1f}"),
        _element(
            "rect", x=f"{ends[1]:.1f}", y=top, width=f"{ends[3] - ends[1]:.1f}", height=BOX - 2, fill=fill
        ),
        _element("path", d=f"M{ends[2]:.1f} {top}V{bottom}", **{"class": "median"}),
        *(_element("circle", cx=f"{axis.place(x):.1f}", cy=middle, r=1.6) for x in values if x not in within),
    ]
    return _element("g", Markup("").join(parts), **{"class": f"tool tool-{kind}"})


SHAPES = (
    "M-1 0A1 1 0 1 0 1 0A1 1 0 1 0-1 0Z",
    "M-.9-.9H.9V.9H-.9Z",
    "M0-1.1 1 .8H-1Z",
    "M0-1.2 1.2 0 0 1.2-1.2 0Z",
    "M-1-1 1 1M-1 1 1-1",
    "M-1.2 0H1.2M0-1.2V1.2",
)


def _mark(x: float, y: float, kind: int, size: float) -> Markup:
    place = f"translate({x:.1f} {y:.1f}) scale({size})"
    shape = _element(
        "path", d=SHAPES[kind % KINDS], transform=place, **{"vector-effect": "non-scaling-stroke"}
    )
    return _element("g", shape, **{"class": f"mark tool-{kind % KINDS}"})


def _text(x: float, y: float, text: str, anchor: str = "start") -> Markup:
    return _element("text", visible(text), x=f"{x:.1f}", y=f"{y:.1f}", **{"text-anchor": anchor})


def _svg(inside: Markup, height: float, title: str) -> Markup:
    named = _element("title", visible(title)) + inside
    return _element("svg", named, viewBox=f"0 0 {WIDTH:g} {height:g}", role="img", **{"class": "plot"})


def _element(name: str, inside: Markup | str = "", /, **attributes: object) -> Markup:
    """An element; values and text that is not markup are escaped."""
    text = Markup("").join(Markup(' {}="{}"').format(key, value) for key, value in attributes.items())
    return Markup("<{0}{1}>{2}</{0}>").format(name, text, inside)
