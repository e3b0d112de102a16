"""Numbers as a person reads them; each carries its exact value in a ``<data>`` element."""

import math
from dataclasses import dataclass

from mtmd_core.quantities import say_bytes, say_duration

from .html import Html, element

UNDEFINED = "–"


class Number(Html):
    """A number, or several, for a table's column of numbers."""

    __slots__ = ()


@dataclass(frozen=True)
class Metric:
    """How a metric is written: its name, its unit, what its value is multiplied by for that unit, and its digits."""

    title: str
    unit: str
    scale: float
    digits: int
    higher_is_better: bool

    @property
    def heading(self) -> str:
        """For a table's column."""
        arrow = "↑" if self.higher_is_better else "↓"
        return f"{self.title}, {self.unit}\u00a0{arrow}"


METRICS = {
    "dice": Metric("Dice", "%", 100, 1, True),
    "sensitivity": Metric("Sensitivity", "%", 100, 1, True),
    "specificity": Metric("Specificity", "%", 100, 2, True),
    "mssd_mm": Metric("MSSD", "mm", 1, 1, False),
    "assd_mm": Metric("ASSD", "mm", 1, 2, False),
    "ravd": Metric("RAVD", "%", 100, 1, False),
    "dice_2d": Metric("2D Dice", "%", 100, 1, True),
    "sensitivity_2d": Metric("2D sensitivity", "%", 100, 1, True),
    "specificity_2d": Metric("2D specificity", "%", 100, 2, True),
}
"""The metrics of :mod:`mtmd_core.scores` in the order of the paper's tables."""


def number(value: float | None, digits: int = 0, scale: float = 1, sign: bool = False) -> Number:
    """A value times ``scale`` with so many digits; a dash where it is undefined.

    >>> number(0.81234, 1, 100)
    '<data value="0.81234">81.2</data>'
    """
    if value is None or not math.isfinite(value):
        return Number(UNDEFINED)
    shown = f"{scale * value:{'+' if sign else ''},.{digits}f}".replace(",", "\u202f")  # a narrow no-break space
    if not shown.strip("+-0."):
        shown = shown.lstrip("+-")  # nothing is left of it: it has no sign
    return Number(element("data", with_minus(shown), value=repr(value)))


def significant(value: float | None, digits: int = 3) -> Number:
    """A value with so many significant digits, for what may be of any size.

    >>> significant(0.00012345)
    '<data value="0.00012345">0.000123</data>'
    """
    if value is None or not math.isfinite(value):
        return Number(UNDEFINED)
    return Number(element("data", with_minus(f"{value:.{digits}g}"), value=repr(value)))


def with_minus(shown: str) -> str:
    """A number's text with a minus sign, which is as wide as a plus, for its hyphen.

    >>> with_minus("-1e-05")
    '−1e−05'
    """
    return shown.replace("-", "−")


def score(metric: str, value: float | None) -> Number:
    """A metric's value in its unit."""
    return number(value, METRICS[metric].digits, METRICS[metric].scale)


def spread(metric: str, mean: float | None, deviation: float | None) -> Number:
    """Mean ± sample standard deviation; the mean alone where there is no deviation."""
    if mean is None or deviation is None:
        return score(metric, mean)
    return plus_minus(score(metric, mean), score(metric, deviation))


def plus_minus(mean: Number, deviation: Number) -> Number:
    """``mean ± deviation``; in two lines where a table would be too wide."""
    return Number(element("span", mean, " ±\u00a0", deviation, class_="spread"))


def size(count: int | None) -> Number:
    """A number of bytes.

    >>> size(544840)
    '<data value="544840">544.8 kB</data>'
    """
    if count is None:
        return Number(UNDEFINED)
    return Number(element("data", say_bytes(count), value=count))


def duration(seconds: float | None) -> Number:
    """Seconds as a person says them.

    >>> duration(95.2), duration(5000.0)
    ('<data value="95.2">1 min 35 s</data>', '<data value="5000.0">1 h 23 min</data>')
    """
    if seconds is None:
        return Number(UNDEFINED)
    return Number(element("data", say_duration(seconds), value=repr(seconds)))
