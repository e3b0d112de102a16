"""Line charts and intervals as SVG, drawn by hand: they print well, scale, and need no library.

Colours are those of Okabe and Ito (2008), told apart by the colour-blind; dashes and markers tell lines apart in black and
white.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from .html import Html, element, join
from .numbers import with_minus

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
DASHES = ("none", "6 3", "2 2.5", "8 3 2 3")
MARKERS = ("circle", "square", "triangle", "diamond")
WIDTH, HEIGHT = 440, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 10, 42
_MOST_MARKERS = 40
_TICKS = 5


@dataclass(frozen=True)
class Line:
    """One line: its name, and its points (x, y) in the order of x. What is not finite leaves a gap."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Interval:
    """A value with what it may be; ``low`` and ``high`` are None where nobody knows."""

    name: str
    value: float
    low: float | None
    high: float | None


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_title: str,
    write: Callable[[float], str] = "{:g}".format,
    enclosing: Sequence[float] = (),
) -> Html:
    """A figure with one line for each name; empty markup where there is no point at all.

    Lines are told apart by their place in ``lines``, as :func:`legend` shows them, so charts over the same names share one.

    Args:
        title: what is drawn over x, with its unit.
        lines: some may have no point.
        x_title: under the axis.
        write: a value of y in words.
        enclosing: values that the axis of y reaches besides: zero for amounts, whose lines would else look steep where little
            changes; what other charts show, to be compared with them.
    """
    known = [[point for point in line.points if all(map(math.isfinite, point))] for line in lines]
    if not any(known):
        return Html()
    xs, ys = ([point[axis] for points in known for point in points] for axis in (0, 1))
    x_ticks, y_ticks = (
        ticks(min(xs), max(xs), whole=True),
        ticks(min(*ys, *enclosing, math.inf), max(*ys, *enclosing, -math.inf)),
    )
    place = _Scale(y_ticks, min(xs), max(xs))
    drawn = [_frame(place, x_ticks, y_ticks, x_title, write)]
    for number, (line, points) in enumerate(zip(lines, known, strict=True)):
        drawn.append(_line(number, line.name, points, place, x_title, write))
    ends = ((line.name, points[-1][1]) for line, points in zip(lines, known, strict=True) if points)
    described = "; ".join(f"{name}: last {write(value)}" for name, value in ends)
    return _figure(title, drawn, HEIGHT, described)


def interval_chart(title: str, intervals: Sequence[Interval], write: Callable[[float], str] = "{:+g}".format) -> Html:
    """A figure with a row for each value and its interval, and a line at zero."""
    ends = [0.0, *(end for each in intervals for end in (each.value, each.low, each.high) if end is not None)]
    if not intervals:
        return Html()
    marks = ticks(min(ends), max(ends))
    height, left = 26 * len(intervals) + 34, 190
    reach = (WIDTH - left - 16) / ((marks[-1] - marks[0]) or 1)

    def x(value: float) -> float:
        return left + (value - marks[0]) * reach

    drawn = []
    for mark in marks:
        drawn.append(_stroke("axis" if mark == 0 else "grid", x(mark), 4, x(mark), height - 26))
        drawn.append(_label(x(mark), height - 10, with_minus(write(mark)) if mark else "0", "middle"))
    for row, each in enumerate(intervals):
        y = 17 + 26 * row
        drawn.append(_label(left - 10, y + 4, shortened(each.name, 28), "end"))
        said = f"{each.name}: {write(each.value)}"
        if each.low is not None and each.high is not None:
            drawn.append(_stroke("line", x(each.low), y, x(each.high), y, stroke=COLOURS[0]))
            said += f", {write(each.low)} to {write(each.high)}"
        drawn.append(_marker("circle", x(each.value), y, COLOURS[0], said, radius=4))
    return _figure(title, drawn, height, "; ".join(f"{each.name} {write(each.value)}" for each in intervals))


def legend(names: Iterable[str]) -> Html:
    """What belongs to which line of the charts that follow."""
    return element("ul", *(_key(number, name) for number, name in enumerate(names)), class_="legend")


_LEAST_SPAN = 1e-290
"""Below it a float has too few digits left for steps."""


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """About five round values that enclose an interval; whole ones where nothing lies between, as between two rounds.

    >>> ticks(0.13, 0.92)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> ticks(1, 6, whole=True)
    [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    """
    # Values that differ in their last bits alone, or by next to nothing, are one value.
    largest = max(abs(low), abs(high))
    span = max(high - low, 1e-6 * largest) if high > low else largest
    span = span if span > _LEAST_SPAN else 1.0
    power = 10.0 ** math.floor(math.log10(span / _TICKS))
    step = next(power * each for each in (1, 2, 5, 10) if power * each * _TICKS >= span * (1 - 1e-9))
    if whole:
        step = max(1.0, float(math.ceil(step)))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [float(f"{step * place:.10g}") for place in range(first, last + 1)]


def shortened(name: str, most: int) -> str:
    """A name that fits: its beginning and an ellipsis."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


class _Scale:
    """Values → places in the picture."""

    def __init__(self, y_ticks: list[float], lowest_x: float, highest_x: float) -> None:
        self.low = (lowest_x, y_ticks[0])
        self.high = (highest_x if highest_x > lowest_x else lowest_x + 1, y_ticks[-1])

    def x(self, value: float) -> float:
        share = (value - self.low[0]) / (self.high[0] - self.low[0])
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low[1]) / (self.high[1] - self.low[1])
        return HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP)

    def shows(self, x: float) -> bool:
        return self.low[0] <= x <= self.high[0]


def _figure(title: str, drawn: Iterable[Html], height: float, described: str) -> Html:
    svg = element(
        "svg",
        element("title", title),
        element("desc", described),
        join(drawn),
        viewBox=f"0 0 {WIDTH} {height}",
        class_="chart",
        role="img",
        aria_label=title,
    )
    return element("figure", element("figcaption", title), svg)


def _frame(
    place: _Scale, x_ticks: list[float], y_ticks: list[float], x_title: str, write: Callable[[float], str]
) -> Html:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    drawn = []
    for value in y_ticks:
        drawn.append(_stroke("grid", _LEFT, place.y(value), right, place.y(value)))
        drawn.append(_label(_LEFT - 7, place.y(value) + 4, with_minus(write(value)), "end"))
    for value in filter(place.shows, x_ticks):
        drawn.append(_stroke("axis", place.x(value), bottom, place.x(value), bottom + 4))
        drawn.append(_label(place.x(value), bottom + 17, f"{value:g}", "middle"))
    drawn.append(_stroke("axis", _LEFT, bottom, right, bottom))
    drawn.append(_label((_LEFT + right) / 2, HEIGHT - 6, x_title, "middle"))
    return join(drawn)


def _line(
    number: int,
    name: str,
    points: list[tuple[float, float]],
    place: _Scale,
    x_title: str,
    write: Callable[[float], str],
) -> Html:
    if not points:
        return Html()
    colour, dash, marker = _look(number)
    at = [(place.x(x), place.y(y)) for x, y in points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in at)
    drawn = [element("path", d=path, class_="line", stroke=colour, stroke_dasharray=dash)] if len(at) > 1 else []
    every = math.ceil(len(points) / _MOST_MARKERS)
    for place_of, ((x, y), (round_, value)) in enumerate(zip(at, points, strict=True)):
        if place_of % every == 0 or place_of == len(points) - 1:
            drawn.append(_marker(marker, x, y, colour, f"{name}, {x_title} {round_:g}: {write(value)}"))
    return element("g", *drawn)


def _look(number: int) -> tuple[str, str, str]:
    """Colour, dash and marker; together they repeat after 28 lines."""
    return COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)], MARKERS[number % len(MARKERS)]


def _marker(kind: str, x: float, y: float, colour: str, said: str | None = None, radius: float = 3.2) -> Html:
    title = [element("title", said)] if said else []
    style = {"fill": "#fff", "stroke": colour, "class_": "mark"}
    if kind == "circle":
        return element("circle", *title, cx=f"{x:.1f}", cy=f"{y:.1f}", r=radius, **style)
    r = radius
    corners = {
        "square": ((-r, -r), (r, -r), (r, r), (-r, r)),
        "triangle": ((0, -r - 1), (r + 1, r), (-r - 1, r)),
        "diamond": ((0, -r - 1), (r + 1, 0), (0, r + 1), (-r - 1, 0)),
    }[kind]
    return element("polygon", *title, points=" ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners), **style)


def _key(number: int, name: str) -> Html:
    colour, dash, marker = _look(number)
    line = element("path", d="M0 7H42", class_="line", stroke=colour, stroke_dasharray=dash)
    swatch = element("svg", line, _marker(marker, 21, 7, colour), viewBox="0 0 42 14", aria_hidden="true")
    return element("li", swatch, name)


def _stroke(kind: str, x1: float, y1: float, x2: float, y2: float, **more: str) -> Html:
    return element("path", d=f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}", class_=kind, **more)


def _label(x: float, y: float, words: str, anchor: str) -> Html:
    return element("text", words, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)
