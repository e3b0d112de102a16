"""Statistics of several methods as tables: paired differences with their intervals, and the tests of Table 4 of the paper."""

from collections.abc import Mapping, Sequence
from typing import Any

from mtmd_core.page.charts import Interval, interval_chart
from mtmd_core.page.html import Html, element, join
from mtmd_core.page.numbers import METRICS, UNDEFINED, Number, number, significant
from mtmd_core.page.tables import table
from mtmd_core.statistics import ALPHA

from .contenders import MEAN

Lines = Sequence[Mapping[str, Any]]
"""From :func:`simulation.contenders.compare`."""


def difference(mean: float | None, low: float | None, high: float | None) -> Number:
    """Percentage points with their interval, where there is one; in two lines where a table would be too wide."""
    own = number(mean, 1, sign=True)
    if low is None or high is None:
        return own
    interval = ("(", number(low, 1, sign=True), "\u00a0to\u00a0", number(high, 1, sign=True), ")")
    return Number(element("span", own, " ", element("span", *interval, class_="interval"), class_="spread"))


def differences(lines: Lines) -> Html:
    """A row a method, a column a site, a chart of the mean of sites, and what could not be paired."""
    if not lines:
        return Html()
    unpaired, lines = _unpaired(lines), [line for line in lines if line["mean"] is not None]
    of_means = [line for line in lines if line["site"] == MEAN]
    chart = interval_chart(
        "Difference of Dice, mean of sites, percentage points, with its 95 % interval",
        [Interval(line["method"], line["mean"], line["low"], line["high"]) for line in of_means],
    )
    sites = sorted({line["site"] for line in lines} - {MEAN}) + [MEAN] * bool(of_means)
    by_method: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for line in lines:
        by_method.setdefault((line["method"], line["reference"]), {})[line["site"]] = line
    rows = []
    for (method, reference), own in by_method.items():
        last = list(own.values())[-1]
        cells = (difference(own[s]["mean"], own[s]["low"], own[s]["high"]) if s in own else None for s in sites)
        rows.append([method, reference, *cells, Number(f"{number(last['pairs'])} {last['over']}")])
    if not rows:
        return unpaired
    shown = table("Paired differences of Dice, percentage points", ["Method", "against", *sites, "Pairs"], rows)
    note = (
        "With a 95 % interval: Student's t over folds, or, of the mean of sites, over sites where there is one fold. One pair "
        "has no interval, and an interval over few pairs is wide."
    )
    return join([chart, shown, element("p", note, class_="note"), unpaired])


def _unpaired(lines: Lines) -> Html:
    """Which folds give no differences, since the two methods were tested on exams that are not the same."""
    places: dict[tuple[str, tuple[int, ...]], dict[str, None]] = {}
    for line in lines:
        if line["other_exams"]:
            what = f"{line['method']} against {line['reference']}"
            places.setdefault((what, tuple(line["other_exams"])), {})[line["site"]] = None
    if not places:
        return Html()
    said = (
        element(
            "li", f"{what}: {', '.join(sites)}, {'fold' if len(folds) == 1 else 'folds'} {', '.join(map(str, folds))}"
        )
        for (what, folds), sites in places.items()
    )
    reason = "No difference is given where two methods were not tested on the same exams: it would be one of exams too."
    return join([element("p", reason, class_="note"), element("ul", *said)])


def slice_statistics(lines: Lines) -> Html:
    """A table a 2D metric, a row a method."""
    metrics = list(dict.fromkeys(line["metric"] for line in lines))
    header = ["Method", "Slices", "Mean, %", "to 84th", "to 16th", "p normal", "against", "p same"]
    shown = [
        table(METRICS[f"{metric}_2d"].title, header, (_slices_row(line) for line in lines if line["metric"] == metric))
        for metric in metrics
    ]
    note = (
        "Slices of all sites and folds together. To 84th, to 16th: from the mean to these percentiles. p normal: D'Agostino and "
        "Pearson. p same: Kolmogorov–Smirnov against the method that is named, over the exams that both were tested on, * below "
        f"{ALPHA}."
    )
    return join([*shown, element("p", note, class_="note")]) if lines else Html()


def _slices_row(line: Mapping[str, Any]) -> list[object]:
    return [
        line["method"],
        number(line["slices"]),
        number(line["mean"], 1),
        number(line["up"], 1, sign=True),
        number(None if line["down"] is None else -line["down"], 1, sign=True),
        significant(line["normality_p"]),
        line["reference"] or UNDEFINED,
        Number(f"{significant(line['same_distribution_p'])}{' *' if line['significant'] else ''}"),
    ]
